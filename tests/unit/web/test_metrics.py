"""The totals of several processes."""

from __future__ import annotations

from dataclasses import fields, replace

from prometheus_client import generate_latest

from hub.totals import Totals
from hub.web.metrics import Board, registry

NOTHING = Totals()


def test_the_sum_is_over_all_processes():
    """Each has a row."""
    board = Board(3)
    for row in range(3):
        board.write(row, replace(NOTHING, viewers=10 * row, deliveries=5))
    assert board.sum() == replace(NOTHING, viewers=30, deliveries=15)


def test_a_counter_never_falls_and_a_gauge_does():
    """A worker that is replaced takes its viewers with it and leaves what it counted."""
    board = Board(2)
    board.write(0, replace(NOTHING, viewers=7, deliveries=100))
    board.write(1, replace(NOTHING, viewers=1, deliveries=1))
    for _ in range(2):
        board.begin(0)
    assert board.sum() == replace(NOTHING, viewers=1, deliveries=101)
    board.write(0, replace(NOTHING, viewers=2, deliveries=3))
    assert board.sum() == replace(NOTHING, viewers=3, deliveries=104)


def test_every_number_is_a_metric():
    """With its kind in its name."""
    text = generate_latest(registry(lambda: replace(NOTHING, viewers=3, gaps=2))).decode()
    assert "hub_viewers 3.0" in text
    assert "hub_gaps_total 2.0" in text
    for field in fields(Totals):
        if (group := field.metadata.get("group")) is None:
            assert f"hub_{field.name}" in text
        else:
            assert f'hub_{group}_total{{reason="{field.name.removeprefix(group)[1:]}"}}' in text
