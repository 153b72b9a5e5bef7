"""The totals of several processes."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import generate_latest

from hub.timings import BOUNDS, Timings
from hub.totals import FIELDS, Totals
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
    for field in FIELDS:
        if (group := field.metadata.get("group")) is None:
            assert f"hub_{field.name}" in text
        else:
            assert f'hub_{group}_total{{reason="{field.name.removeprefix(group)[1:]}"}}' in text


def test_times_add_up_over_processes():
    """A row of the board has them, and what a process that is gone had counted stays."""
    board, mine, theirs = Board(2), Timings(), Timings()
    mine.joins["sse"].observe(0.0002)
    mine.wrote(0.004, 4)
    mine.wrote(0.1, 0)  # nobody was there
    theirs.joins["sse"].observe(3.0)
    theirs.delivery["redis"].observe(60.0)
    board.write(0, replace(NOTHING, timings=mine))
    board.write(1, replace(NOTHING, timings=theirs))
    assert board.sum().timings.cells() == (mine + theirs).cells()
    board.begin(1)
    found = board.sum().timings
    assert found.cells() == (mine + theirs).cells()
    assert [bound for bound, count in found.joins["sse"].buckets() if count == 1] == [
        "0.00025",
        "0.0005",
        "0.001",
        "0.0025",
        "0.005",
        "0.01",
        "0.025",
        "0.05",
        "0.1",
        "0.25",
        "0.5",
        "1.0",
        "2.5",
    ]
    assert (found.joins["sse"].count, found.joins["sse"].total) == (2, 3.0002)
    assert list(found.delivery["redis"].buckets())[-2:] == [("5.0", 0), ("+Inf", 1)]
    assert (found.fanout.total, found.delivery["write"].total) == (0.004, 0.001)
    text = generate_latest(registry(lambda: replace(NOTHING, timings=found))).decode()
    assert 'hub_join_seconds_bucket{le="5.0",transport="sse"} 2.0' in text
    assert 'hub_join_seconds_sum{transport="sse"} 3.0002' in text
    assert 'hub_delivery_latency_seconds_count{hop="queue"} 0.0' in text
    assert "hub_fanout_seconds_count 1.0" in text


def test_a_bound_belongs_to_its_bucket():
    """As Prometheus has it: `le`."""
    one = Timings().fanout
    one.observe(BOUNDS[3])
    assert one.counts[3] == 1


def test_the_process_is_the_hub_where_it_is_the_only_one():
    """The standard names, without a label."""
    assert b"\nprocess_resident_memory_bytes " in generate_latest(registry(lambda: NOTHING))
    assert b'hub_build_info{python="' in generate_latest(registry(lambda: NOTHING))


def test_each_of_several_workers_has_its_own_process_metrics():
    """By its row; a row that no process has begun, or whose process is gone, has none."""
    board = Board(3)
    board.begin(0)
    board.begin(2)
    text = generate_latest(registry(board.sum, board)).decode()
    assert text.count("# TYPE process_cpu_seconds_total counter") == 1
    found = [line for line in text.splitlines() if line.startswith("process_resident_memory_bytes")]
    assert [line.partition(" ")[0] for line in found] == [
        f'process_resident_memory_bytes{{worker="{row}"}}' for row in (0, 2)
    ]
