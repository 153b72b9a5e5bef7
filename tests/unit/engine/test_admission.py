"""Caps: the new one is refused, nobody is evicted, and what was counted is given back."""

from __future__ import annotations

import pytest

from hub.engine.admission import Admission
from hub.errors import Overloaded
from hub.settings import Settings
from hub.totals import Totals


def admission(**limits: int) -> Admission:
    return Admission(Settings(**limits), Totals())


@pytest.mark.parametrize(
    ("limits", "present", "refused", "welcome"),
    [
        ({"max_viewers": 2}, [("a", "1"), ("b", "2")], ("c", "3"), None),
        ({"max_viewers_per_job": 2}, [("a", "1"), ("b", "1")], ("c", "1"), ("c", "2")),
        ({"max_viewers_per_user": 2}, [("a", "1"), ("a", "2")], ("a", "3"), ("b", "3")),
        ({"max_viewers_per_user_and_job": 1}, [("a", "1")], ("a", "1"), ("a", "2")),
    ],
)
def test_a_cap_refuses_the_new_one_and_only_there(limits, present, refused, welcome):
    """Per process, per job, per user, per user on one job."""
    places = admission(**limits)
    for user, job in present:
        places.enter(user, job)
    with pytest.raises(Overloaded):
        places.enter(*refused)
    assert (places._totals.viewers, places._totals.refused) == (len(present), 1)
    if welcome is not None:
        places.enter(*welcome)


def test_a_place_that_is_given_back_is_free():
    """And a refusal has taken none."""
    places = admission(max_viewers=1)
    for _ in range(3):
        places.enter("a", "1")
        with pytest.raises(Overloaded):
            places.enter("a", "2")
        places.leave("a", "1")
    assert places._totals.viewers == 0


def test_a_dashboard_that_watches_nothing_takes_a_place_of_its_user():
    """Or one user could hold any number of idle sockets."""
    places = admission(max_viewers_per_user=2)
    places.enter_socket("a")
    places.enter("a", "1")
    with pytest.raises(Overloaded):
        places.enter_socket("a")
    places.leave_socket("a")
    places.enter_socket("a")
    assert (places.sockets, places._totals.viewers) == (1, 1)


def test_nothing_is_remembered_of_who_has_left():
    """A counter at zero is a leak of its key."""
    places = admission()
    for number in range(10):
        places.enter(f"u{number}", f"j{number}")
        places.leave(f"u{number}", f"j{number}")
    assert not any((places._by_job, places._by_user, places._by_both))


def test_viewers_and_dashboards_share_the_places_of_the_process():
    """Each is a socket, and those are what a process runs out of."""
    places = admission(max_viewers=2)
    places.enter("a", "1")
    places.enter_socket("b")
    with pytest.raises(Overloaded):
        places.enter("c", "1")
    with pytest.raises(Overloaded):
        places.enter_socket("c")


def test_who_came_in_is_counted_since_the_start():
    """Leaving takes nothing back from it, and a refusal adds nothing."""
    places = admission(max_viewers_per_user=1)
    for user in ("a", "b"):
        places.enter(user, "1")
        places.leave(user, "1")
    places.enter_socket("a")
    with pytest.raises(Overloaded):
        places.enter("a", "1")
    now = places._totals
    assert (now.opened, now.refused, now.viewers) == (2, 1, 0)
