"""Jobs of a dashboard take turns, and the end of one job does not end the others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hub.fanout.wire import Reason
from hub.transports.lane import Lane, Lanes


class Socket:
    """A socket that is busy after one write."""

    def __init__(self) -> None:
        self.paused = False
        self.said: list[str] = []
        self.ended: list[tuple[str, Reason]] = []
        self.reason: Reason | None = None

    def write(self, payload) -> None:
        assert not self.paused
        self.said += payload
        self.paused = True

    def finish(self, reason: Reason) -> None:
        self.reason = reason

    def end_lane(self, lane: Lane, reason: Reason) -> None:
        self.ended.append((lane.job, reason))


class View:
    def __init__(self, job: str) -> None:
        self.job_id = job
        self.closings = 0

    def close(self) -> None:
        self.closings += 1


def lane(socket: Socket, job: str) -> Lane:
    """A lane whose job always has something to write."""
    made = Lane(socket, View(job))
    made.seat = SimpleNamespace(catch_up=lambda: None if made.paused else made.write([job]))
    return made


def test_jobs_that_always_have_something_take_turns():
    """Without turns the first job would keep the socket to itself."""
    socket, lanes = Socket(), Lanes()
    for job in "abc":
        lanes.add(lane(socket, job))
    for _ in range(6):
        socket.paused = False
        lanes.catch_up()
    assert socket.said == ["a", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize("reason", [Reason.ENDED, Reason.GAP, Reason.TOO_SLOW, Reason.NOT_FOUND])
def test_the_end_of_a_job_ends_its_lane(reason: Reason):
    """The socket stays open when one of its jobs ends."""
    socket = Socket()
    lane(socket, "a").finish(reason)
    assert (socket.ended, socket.reason) == ([("a", reason)], None)


@pytest.mark.parametrize("reason", [Reason.RESTART, Reason.AGED])
def test_the_end_of_a_process_ends_the_socket(reason: Reason):
    """The socket ends with all its lanes."""
    socket = Socket()
    lane(socket, "a").finish(reason)
    assert (socket.ended, socket.reason) == ([], reason)


def test_removing_a_lane_gives_its_view_back():
    """The view is closed even if the job has another lane by then."""
    lanes = Lanes()
    old, new = lane(Socket(), "a"), lane(Socket(), "a")
    lanes.add(old)
    lanes.add(new)
    lanes.remove(old)
    assert lanes.get("a") is new
    assert (old.view.closings, new.view.closings) == (1, 0)
