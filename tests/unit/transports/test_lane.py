"""Jobs of a dashboard take turns, and one job's end is that job's alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hub.fanout.wire import Reason
from hub.transports.lane import Lane, Lanes


class Socket:
    """One write, and it is busy."""

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
    """A lane whose job always has something to say."""
    made = Lane(socket, View(job))
    made.seat = SimpleNamespace(catch_up=lambda: None if made.paused else made.write([job]))
    return made


def test_jobs_that_always_have_something_take_turns():
    """Else the first one would have the socket for itself."""
    socket, lanes = Socket(), Lanes()
    for job in "abc":
        lanes.add(lane(socket, job))
    for _ in range(6):
        socket.paused = False
        lanes.catch_up()
    assert socket.said == ["a", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize("reason", [Reason.ENDED, Reason.GAP, Reason.TOO_SLOW, Reason.NOT_FOUND])
def test_the_end_of_a_job_ends_its_lane(reason: Reason):
    """The socket lives on."""
    socket = Socket()
    lane(socket, "a").finish(reason)
    assert (socket.ended, socket.reason) == ([("a", reason)], None)


@pytest.mark.parametrize("reason", [Reason.RESTART, Reason.AGED])
def test_the_end_of_a_process_ends_the_socket(reason: Reason):
    """With all that is on it."""
    socket = Socket()
    lane(socket, "a").finish(reason)
    assert (socket.ended, socket.reason) == ([], reason)


def test_removing_a_lane_gives_its_view_back():
    """Also when another lane of that job has taken its place."""
    lanes = Lanes()
    old, new = lane(Socket(), "a"), lane(Socket(), "a")
    lanes.add(old)
    lanes.add(new)
    lanes.remove(old)
    assert lanes.get("a") is new
    assert (old.view.closings, new.view.closings) == (1, 0)
