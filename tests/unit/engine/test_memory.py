"""The bound on memory: what counts, where it comes from, and the share for the past."""

from __future__ import annotations

import os

import pytest

from hub.engine import memory as module
from hub.engine.memory import Past, budget, held
from hub.errors import BrokerUnavailable
from hub.totals import Totals

MACHINE = 1000 * 4096


@pytest.fixture
def limits(monkeypatch, tmp_path):
    """A machine of a thousand pages, and the two files where a container's limit may stand."""
    files = (tmp_path / "v2", tmp_path / "v1")
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    monkeypatch.setattr(module, "LIMITS", files)
    return files


def test_a_window_counts_three_times_the_past_twice_and_the_rest_once():
    totals = Totals(window_bytes=1, state_bytes=10, inbox_bytes=100, past_bytes=1000)
    assert held(totals) == 3 + 10 + 100 + 2000


def test_the_setting_is_the_bound(limits):
    assert budget(12345) == 12345


def test_without_a_setting_it_is_half_of_the_machine(limits):
    assert budget(0) == MACHINE // 2


@pytest.mark.parametrize("which", [0, 1])
def test_in_a_container_it_is_half_of_the_containers_limit(limits, which):
    limits[which].write_text("2000000\n")
    assert budget(0) == 1000000


def test_a_limit_beyond_the_machine_is_none(limits):
    limits[0].write_text(f"{MACHINE * 2}\n")
    assert budget(0) == MACHINE // 2


def test_a_container_without_a_limit_has_the_machine(limits):
    limits[0].write_text("max\n")
    assert budget(0) == MACHINE // 2


def test_the_newer_file_is_believed_first(limits):
    limits[0].write_text("2000\n")
    limits[1].write_text("1000\n")
    assert budget(0) == 1000


def test_the_past_of_viewers_is_held_and_given_back():
    totals = Totals()
    past = Past(8000, totals)
    one = past.reserve(500, 0)
    other = past.hold(100, 0)
    assert (one, other, totals.past_bytes) == (500, 100, 600)
    assert past.hold(300, one) == 300
    assert totals.past_bytes == 400
    past.hold(0, 300)
    past.hold(0, other)
    assert totals.past_bytes == 0


def test_the_past_has_a_quarter_of_the_memory_for_two_copies():
    totals = Totals()
    past = Past(8000, totals)
    past.reserve(400, 0)
    past.reserve(600, 0)  # 1000 bytes and a copy of them
    with pytest.raises(BrokerUnavailable):
        past.reserve(1, 0)
    assert totals.past_bytes == 1000


def test_a_viewer_gives_its_own_share_back_before_it_takes_more():
    past = Past(8000, Totals())
    past.reserve(500, 0)
    past.reserve(500, 0)
    assert past.reserve(500, 500) == 500
    with pytest.raises(BrokerUnavailable):
        past.reserve(501, 500)


def test_the_only_reader_may_read_an_event_of_any_size():
    """Or an event that is larger than the share could never be read."""
    totals = Totals()
    past = Past(8000, totals)
    past.reserve(5000, 0)
    past.reserve(6000, 5000)
    assert totals.past_bytes == 6000
