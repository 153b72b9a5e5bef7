"""The jobs of a user: the list in pages, what joins show, and who follows hears of each job once."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from hub.engine import mine as module
from hub.engine.mine import AT_MOST, AT_ONCE, LOOK, PAUSE, Mine
from hub.errors import BrokerUnavailable
from hub.job.begun import JobBegun
from hub.job.event import JobId, UserId
from hub.job.record import Job

pytestmark = pytest.mark.looptime(start=1000)
ADA, EVE = UserId("ada"), UserId("eve")
NOW = 500.0


@pytest.fixture(autouse=True)
def now(monkeypatch):
    monkeypatch.setattr(module, "time", lambda: NOW)


class Store:
    """Jobs, and an index of them, which may be wrong."""

    def __init__(self) -> None:
        self.found: dict[str, Job] = {}
        self.rows: dict[str, dict[JobId, float]] = {}
        self.added: list[tuple[str, dict[JobId, float]]] = []
        self.reads: list[int] = []
        self.is_down = False
        self.index = self

    def put(self, name: str, began: float, *, owner: str = ADA, status: str = "code", **more: object) -> None:
        """A job, and its row in ada's list."""
        job = JobId(name)
        self.found[job] = Job(job, status, UserId(owner), **more)
        self.rows.setdefault(ADA, {})[job] = began

    def _answer(self) -> None:
        if self.is_down:
            raise BrokerUnavailable("expected a server, got none")

    async def jobs(self, jobs):
        self._answer()
        self.reads.append(len(jobs))
        return [self.found.get(job) for job in jobs]

    async def of(self, user):
        self._answer()
        rows = self.rows.get(user, {}).items()
        return sorted(rows, key=lambda row: (row[1], row[0]), reverse=True)

    async def add(self, user, jobs):
        self._answer()
        self.added.append((user, dict(jobs)))

    async def remove(self, user, jobs):
        for job in jobs:
            del self.rows[user][job]


@asynccontextmanager
async def running(mine: Mine):
    task = asyncio.create_task(mine.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def job(name: str, owner: str = ADA, **fields: str) -> Job:
    return Job(JobId(name), "code", UserId(owner), fields=fields)


async def names(mine: Mine, *, status=None, limit=1000, before=None) -> tuple[str, str | None]:
    """The names of a page of ada's jobs, and the cursor of the next one."""
    page = await mine.page(ADA, status=status, limit=limit, before=before)
    return " ".join(job.id for job, _ in page.jobs), page.next


# --- the list


async def test_a_list_has_the_newest_job_first_with_its_time():
    store = Store()
    for name, began in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        store.put(name, began)
    page = await Mine(store).page(ADA, status=None, limit=10, before=None)
    assert [(one.id, began) for one, began in page.jobs] == [("b", 3.0), ("c", 2.0), ("a", 1.0)]
    assert page.next is None


async def test_pages_follow_each_other_without_a_hole_also_among_jobs_of_one_moment():
    store = Store()
    for name in "abcde":
        store.put(name, 1.0)
    store.put("f", 0.1 + 0.2)  # a time that has many digits
    mine = Mine(store)
    first, cursor = await names(mine, limit=2)
    second, cursor = await names(mine, limit=2, before=cursor)
    third, end = await names(mine, limit=2, before=cursor)
    assert (first, second, third, end) == ("e d", "c b", "a f", None)


async def test_a_cursor_is_good_when_its_job_has_left_the_list():
    store = Store()
    for name in "abcd":
        store.put(name, 1.0)
    _, cursor = await names(Mine(store), limit=2)
    del store.rows[ADA][JobId("c")]
    assert await names(Mine(store), before=cursor) == ("b a", None)


async def test_a_cursor_after_the_last_job_is_an_empty_page():
    store = Store()
    store.put("b", 1.0)
    assert await names(Mine(store), before="1.0~a") == ("", None)


@pytest.mark.parametrize("text", ["", "nonsense", "1.0", "x~a", "~"])
async def test_a_cursor_that_is_none_means_the_beginning(text):
    store = Store()
    store.put("a", 2.0)
    store.put("b", 1.0)
    assert await names(Mine(store), before=text) == ("a b", None)


async def test_a_list_may_be_of_one_status():
    store = Store()
    for name, status in (("a", "code"), ("b", "ready"), ("c", "code"), ("d", "code")):
        store.put(name, ord(name), status=status)
    mine = Mine(store)
    first, cursor = await names(mine, status="code", limit=2)
    assert (first, await names(mine, status="code", limit=2, before=cursor)) == ("d c", ("a", None))
    assert await names(mine, status="unknown") == ("", None)


@pytest.mark.parametrize(
    "wrong",
    [None, job("b", EVE), Job(JobId("b"), "code", ADA, exists=False)],
    ids=["gone", "another's", "left over"],
)
async def test_what_is_not_the_users_is_not_shown_and_leaves_the_index(wrong):
    store = Store()
    for name in "abc":
        store.put(name, ord(name))
    store.found.pop("b")
    if wrong is not None:
        store.found["b"] = wrong
    assert await names(Mine(store)) == ("c a", None)
    assert set(store.rows[ADA]) == {"a", "c"}


async def test_a_job_that_left_the_index_is_noted_again_when_a_join_shows_it():
    store = Store()
    mine = Mine(store)
    mine.saw(ADA, job("a"))
    await mine._write()
    store.put("a", 1.0, owner=EVE)
    await names(mine)
    mine.saw(ADA, job("a"))
    await mine._write()
    assert len(store.added) == 2


async def test_a_page_reads_few_hashes_at_once_and_no_more_than_it_needs():
    store = Store()
    for number in range(AT_ONCE + 10):
        store.put(f"j{number:03}", number)
    await names(Mine(store))
    assert store.reads == [AT_ONCE, 10]
    store.reads.clear()
    await names(Mine(store), limit=3)
    assert store.reads == [AT_ONCE]


async def test_a_page_for_a_rare_status_ends_and_its_cursor_goes_on_with_what_was_not_read():
    store = Store()
    for number in range(AT_MOST + 2):
        store.put(f"j{number:03}", number, status="rare" if number < 2 else "code")
    mine = Mine(store)
    first, cursor = await names(mine, status="rare")
    assert (first, sum(store.reads)) == ("", AT_MOST)
    assert await names(mine, status="rare", before=cursor) == ("j001 j000", None)


async def test_a_list_as_long_as_one_page_reads_has_no_further_page():
    store = Store()
    for number in range(AT_MOST):
        store.put(f"j{number:03}", number)
    page = await Mine(store).page(ADA, status=None, limit=AT_MOST, before=None)
    assert (len(page.jobs), page.next) == (AT_MOST, None)


# --- what joins show


async def test_a_job_that_a_join_shows_is_in_the_index_soon_and_is_written_once():
    store = Store()
    mine = Mine(store)
    async with running(mine):
        mine.saw(ADA, job("a", created_at="12.5"))
        mine.saw(ADA, job("b"))
        mine.saw(EVE, job("c", EVE))
        await asyncio.sleep(PAUSE / 2)
        assert store.added == []
        await asyncio.sleep(PAUSE)
        assert store.added == [(ADA, {"a": 12.5, "b": NOW}), (EVE, {"c": NOW})]
        mine.saw(ADA, job("a"))
        await asyncio.sleep(10 * PAUSE)
        assert len(store.added) == 2


@pytest.mark.parametrize(
    ("created", "began"),
    [("12.5", 12.5), ("-3", 0.0), ("1e9", NOW), ("yesterday", NOW), ("", NOW)],
)
async def test_a_job_began_when_its_hash_says_but_not_in_the_future(created, began):
    store = Store()
    mine = Mine(store)
    mine.saw(ADA, job("a", created_at=created))
    await mine._write()
    assert store.added == [(ADA, {"a": began})]


async def test_what_could_not_be_written_is_written_after_the_next_join(caplog):
    store = Store()
    mine = Mine(store)
    store.is_down = True
    mine.saw(ADA, job("a"))
    with caplog.at_level(logging.WARNING, "hub.mine"):
        await mine._write()
    assert "not noted" in caplog.text
    store.is_down = False
    await mine._write()
    assert store.added == []
    mine.saw(ADA, job("a"))
    await mine._write()
    assert store.added == [(ADA, {"a": NOW})]


async def test_pairs_that_are_known_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "KNOWN", 3)
    mine = Mine(Store())
    for name in "abc":
        mine.saw(ADA, job(name))
    assert len(mine._known) == 3
    mine.saw(ADA, job("d"))
    assert mine._known == {(ADA, "d")}


# --- whoever follows


async def test_who_follows_hears_of_running_jobs_the_newest_first_and_not_of_those_that_are_over():
    store = Store()
    for name, status in (("a", "code"), ("b", "ready"), ("c", "code")):
        store.put(name, ord(name), status=status)
    store.put("d", 1.0, owner=EVE)
    mine, told = Mine(store), []
    mine.follow(ADA, told.append)
    await asyncio.sleep(0.1)
    assert told == ["c", "a"]


async def test_each_job_is_told_once_to_each_who_follows():
    store = Store()
    mine, one, other = Mine(store), [], []
    mine.follow(ADA, one.append)
    mine.heard(JobBegun(JobId("a"), ADA))
    mine.follow(ADA, other.append)
    for _ in range(2):
        mine.heard(JobBegun(JobId("a"), ADA))
        mine.saw(ADA, job("b"))
        mine.saw(EVE, job("c", EVE))
        mine.heard(JobBegun(JobId("d"), EVE))
    await asyncio.sleep(0.1)
    assert (one, other) == (["a", "b"], ["a", "b"])


async def test_a_job_that_was_over_is_told_again_when_it_runs_again():
    store = Store()
    store.put("a", 1.0)
    mine, told = Mine(store), []
    mine.follow(ADA, told.append)
    await asyncio.sleep(0.1)
    store.put("a", 1.0, status="ready")
    mine.missed()
    await asyncio.sleep(0.1)
    assert told == ["a"]
    store.put("a", 1.0)
    mine.missed()
    await asyncio.sleep(0.1)
    assert told == ["a", "a"]


async def test_who_does_not_follow_any_more_hears_nothing_and_is_forgotten():
    mine, one, other = Mine(Store()), [], []
    tell_one, tell_other = one.append, other.append
    mine.follow(ADA, tell_one)
    mine.follow(ADA, tell_other)
    mine.unfollow(ADA, tell_one)
    mine.unfollow(ADA, tell_one)
    mine.unfollow(EVE, tell_one)
    mine.heard(JobBegun(JobId("a"), ADA))
    assert (one, other) == ([], ["a"])
    mine.unfollow(ADA, tell_other)
    assert mine._followers == {}
    await asyncio.sleep(0.1)


async def test_a_message_that_was_lost_is_made_up_for_by_the_next_look():
    store = Store()
    mine, told = Mine(store), []
    async with running(mine):
        mine.follow(ADA, told.append)
        await asyncio.sleep(PAUSE)
        store.put("a", 1.0)
        await asyncio.sleep(LOOK - 2 * PAUSE)
        assert told == []
        await asyncio.sleep(2 * PAUSE)
        assert told == ["a"]
        store.put("b", 2.0)
        await asyncio.sleep(LOOK - 2 * PAUSE)
        assert told == ["a"]
        await asyncio.sleep(3 * PAUSE)
        assert told == ["a", "b"]


async def test_a_look_that_finds_no_redis_is_a_line_in_the_log_and_the_next_one_succeeds(caplog):
    store = Store()
    store.put("a", 1.0)
    store.is_down = True
    mine, told = Mine(store), []
    with caplog.at_level(logging.WARNING, "hub.mine"):
        mine.follow(ADA, told.append)
        await asyncio.sleep(0.1)
    assert "not read" in caplog.text
    store.is_down = False
    mine.missed()
    await asyncio.sleep(0.1)
    assert told == ["a"]


async def test_a_look_reads_the_newest_jobs_only():
    store = Store()
    for number in range(2 * AT_ONCE + 1):
        store.put(f"j{number:03}", number)
    mine, told = Mine(store), []
    mine.follow(ADA, told.append)
    await asyncio.sleep(0.1)
    assert (len(told), "j000" in told) == (2 * AT_ONCE, False)


async def test_a_user_without_jobs_costs_no_read():
    store = Store()
    mine = Mine(store)
    mine.follow(ADA, [].append)
    await asyncio.sleep(0.1)
    assert (store.reads, mine._looks) == ([], set())


async def test_the_end_ends_a_look_that_hangs():
    class Hanging(Store):
        async def of(self, user):
            await asyncio.get_running_loop().create_future()

    mine = Mine(Hanging())
    async with running(mine):
        mine.follow(ADA, [].append)
        await asyncio.sleep(PAUSE)
        (look,) = mine._looks
    assert look.cancelled()
