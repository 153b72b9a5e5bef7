"""What both publishers share."""

from __future__ import annotations

import logging

from hub.produce import publishing
from hub.produce.publishing import LARGE, Publishing


def test_an_event_that_common_clients_refuse_is_warned_of_once_per_type(caplog, monkeypatch):
    """In bytes, not in characters; a producer that makes up types is warned of a hundred."""
    monkeypatch.setattr(publishing, "_warned_types", set())
    publisher = Publishing(None, strict=True, cluster=False)
    with caplog.at_level(logging.WARNING, "hub.publisher"):
        for kind, text in (
            ("small", "x" * 30_000),
            ("large", "x" * LARGE),
            ("wide", "\u20ac" * (LARGE // 3)),
        ):
            for _ in range(3):
                publisher._prepare("a", [(kind, {"text": text})], None)
        for number in range(200):
            publisher._prepare("a", [(f"made up {number}", {"text": "x" * LARGE})], None)
    assert {line.args[0] for line in caplog.records} >= {"large"}
    assert publishing._warned_types >= {"large", "wide"}
    assert "small" not in publishing._warned_types
    assert len(publishing._warned_types) == publishing.MAX_WARNED
