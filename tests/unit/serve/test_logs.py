"""The lines of the log."""

from __future__ import annotations

import json
import logging
import sys

from hub.serve.logs import JsonFormatter


def test_a_traceback_is_one_line_of_json_without_secrets():
    secret = "s3cret-" * 5
    formatter = JsonFormatter("%(message)s", frozenset({secret}))
    try:
        raise ValueError(f"bad {secret}")
    except ValueError:
        record = logging.LogRecord(
            "hub", logging.ERROR, "x.py", 1, "it failed: %s", (secret,), sys.exc_info()
        )
    line = formatter.format(record)
    assert "\n" not in line
    assert secret not in line
    said = json.loads(line)
    assert said["message"] == "it failed: ***"
    assert said["traceback"].endswith("ValueError: bad ***")
    assert said["level"] == "error"
    assert said["time"].endswith("+00:00")


def test_what_the_lines_of_a_viewer_say_has_names():
    record = logging.LogRecord("hub.viewers", logging.INFO, "x.py", 1, "viewer", (), None)
    record.viewer = {
        "request_id": "eyJhbGciOiJI.eyJzdWIiOiJh.c2lnbmF0dXJl",
        "job": "a",
        "events": 3,
        "bytes": None,
    }
    said = json.loads(JsonFormatter("%(message)s").format(record))
    assert (said["job"], said["events"], said["bytes"]) == ("a", 3, None)
    assert said["request_id"] == "***", "what looks like a token is none's id"
