"""How many entries a read asks for: about as many bytes each time, whatever the size of the events."""

from __future__ import annotations

import pytest

from hub.feed.paging import AIM, FIRST, MOST, expected, first_limit, next_limit
from hub.job.event import EventId
from hub.job.record import Entry


def entries(number: int, size: int) -> list[Entry]:
    return [Entry(EventId(5, n), b"x" * size) for n in range(number)]


@pytest.mark.parametrize(
    ("size", "number", "limit"),
    [
        (0, 0, FIRST),
        (0, 5, FIRST),
        (100, 0, FIRST),
        (AIM, 1, 1),
        (AIM * 3, 1, 1),
        (AIM, 7, 7),
        (AIM, MOST * 2, MOST),
    ],
)
def test_a_first_read_goes_by_what_is_near(size, number, limit):
    assert first_limit(size, number) == limit


def test_the_next_read_goes_by_what_this_one_brought():
    assert next_limit(7, []) == 7
    assert next_limit(20, entries(20, 1)) == 200, "it grows by steps"
    assert next_limit(200, entries(20, 1)) == MOST
    assert next_limit(20, entries(2, AIM // 10)) == 10
    assert next_limit(20, entries(1, AIM * 2)) == 1
    assert next_limit(20, entries(3, 0)) == 200, "bodies may be empty"


def test_what_a_read_will_bring_is_known_about():
    assert expected(10, 1000, 5) == 2000
    assert expected(10, 0, 0) == AIM
