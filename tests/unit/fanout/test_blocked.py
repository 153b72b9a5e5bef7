"""Sockets that take no bytes: when they are ended hard, and when they are left alone."""

from __future__ import annotations

import asyncio

import pytest

from hub.fanout.blocked import Blocked
from hub.totals import Totals

pytestmark = pytest.mark.looptime(start=100)
TIMEOUT = 10.0


class Socket:
    whose = "a", "ada"

    def __init__(self, unsent: int = 0, *, finished: bool = False) -> None:
        self.unsent = unsent
        self.finished = finished
        self.aborts = 0

    def abort(self) -> None:
        self.aborts += 1


def blocked(*sockets: Socket) -> Blocked:
    them = Blocked(TIMEOUT, Totals())
    for socket in sockets:
        them.add(socket)
    return them


async def test_a_socket_that_takes_nothing_is_ended_after_the_timeout():
    """Not at it, and once: the heartbeat of each transport calls `abort`."""
    socket = Socket(500)
    them = blocked(socket)
    them.abort(100 + TIMEOUT)
    assert (socket.aborts, len(them)) == (0, 1)
    them.abort(100 + TIMEOUT + 0.1)
    them.abort(100 + TIMEOUT + 0.2)
    assert (socket.aborts, them._totals.blocked, len(them)) == (1, 1, 0)


async def test_a_socket_that_takes_a_little_stays():
    """Its time begins again with each byte that the kernel takes; the same bytes unsent are no progress."""
    socket = Socket(500)
    them = blocked(socket)
    socket.unsent = 499
    them.abort(111)
    assert socket.aborts == 0
    them.abort(121)
    assert socket.aborts == 0
    them.abort(121.1)
    assert socket.aborts == 1


async def test_a_socket_that_says_again_that_it_is_blocked_gets_no_more_time():
    """The first time counts."""
    socket = Socket(500)
    them = blocked(socket)
    await asyncio.sleep(9)
    them.add(socket)
    them.abort(110.1)
    assert socket.aborts == 1


async def test_a_socket_that_is_not_blocked_any_more_is_left_alone():
    """Giving it back twice is giving it back once."""
    socket = Socket(500)
    them = blocked(socket)
    them.discard(socket)
    them.discard(socket)
    them.abort(1000)
    them.abort_all()
    assert (socket.aborts, them._totals.blocked, len(them)) == (0, 0, 0)


async def test_only_viewers_that_still_miss_something_are_counted():
    """A socket that had its last words is ended as well, and nobody was cut off."""
    socket = Socket(finished=True)
    them = blocked(socket)
    them.abort(200)
    assert (socket.aborts, them._totals.blocked) == (1, 0)


async def test_at_the_end_of_the_process_all_are_ended():
    """Whatever time they had left."""
    sockets = [Socket(500), Socket(finished=True)]
    blocked(*sockets).abort_all()
    assert [socket.aborts for socket in sockets] == [1, 1]


@pytest.mark.parametrize(
    ("whose", "said"),
    [
        (("build-7", "ada"), "a viewer of job build-7, user ada, took no bytes for 11 s and is cut off"),
        (("", "ada"), "a dashboard of user ada took no bytes for 11 s and is cut off"),
    ],
)
async def test_the_log_says_whose_it_was(whose, said, caplog):
    """An operator is asked by a user, about a job."""
    socket = Socket(500)
    socket.whose = whose
    blocked(socket).abort(111)
    assert [record.getMessage() for record in caplog.records] == [said]
