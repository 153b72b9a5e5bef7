"""An operator's question is asked of every process, and each answers once. No more is waited for than is there."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hub.engine.survey import PATIENCE, REMEMBERED, UNCOUNTED, Survey
from hub.errors import BrokerUnavailable
from hub.job.event import JobId
from hub.job.question import Answer, Question

pytestmark = pytest.mark.looptime(start=1000)
JOB = JobId("j")


class Channel:
    """A control channel: what one process says, all of `surveys` hear, `copies` times, as on a cluster; then
    nobody counts them.
    """

    def __init__(self, *, copies: int = 1) -> None:
        self.surveys: list[Survey] = []
        self.said: list[bytes] = []
        self.copies = copies
        self.silent = 0  # processes that hear and do not answer
        self.is_down = False

    def join(self, name: str) -> Survey:
        survey = Survey(self, lambda job, limit: {"name": name, "job": job, "limit": limit})
        self.surveys.append(survey)
        return survey

    async def announce(self, message: bytes) -> int | None:
        if self.is_down:
            raise BrokerUnavailable("expected a server, got none")
        self.said.append(message)
        for survey in self.surveys:
            for _ in range(self.copies):
                assert survey.hear(message)
        return None if self.copies > 1 else len(self.surveys) + self.silent

    def answers(self) -> list[bytes]:
        return [one for one in self.said if Answer.is_one(one)]


def elapsed() -> float:
    return asyncio.get_running_loop().time() - 1000


@pytest.mark.parametrize("copies", [1, 3], ids=["one node", "a cluster"])
async def test_every_process_is_heard_once_and_nothing_is_waited_for_after_the_last(copies):
    channel = Channel(copies=copies)
    one, *_ = (channel.join(name) for name in "abc")
    said = await one.ask(JOB, 7)
    assert sorted(row["name"] for row in said.by.values()) == ["a", "b", "c"]
    assert all((row["job"], row["limit"]) == (JOB, 7) for row in said.by.values())
    assert (said.asked, elapsed()) == (3, 0 if copies == 1 else UNCOUNTED)
    assert len(channel.answers()) == 2  # who asks does not answer itself
    assert one._waiting == {}


async def test_a_process_that_does_not_answer_is_given_up_and_counted():
    channel = Channel()
    one = channel.join("a")
    channel.join("b")
    channel.silent = 1
    said = await one.ask(None, 5)
    assert (len(said.by), said.asked, elapsed()) == (2, 3, PATIENCE)
    assert one._waiting == {}


async def test_without_redis_a_process_says_what_it_knows_itself():
    channel = Channel()
    one = channel.join("a")
    channel.is_down = True
    said = await one.ask(None, 5)
    assert ([row["name"] for row in said.by.values()], said.asked, elapsed()) == (["a"], 1, 0)
    assert one._waiting == {}


async def test_a_process_that_hears_nothing_is_one_of_those_asked_all_the_same():
    """Its own subscription may be away: then nobody has heard the question."""
    channel = Channel()
    one = channel.join("a")
    channel.surveys.clear()
    said = await one.ask(None, 5)
    assert (len(said.by), said.asked) == (1, 1)


async def test_two_questions_at_once_get_their_own_answers():
    channel = Channel()
    one, _ = channel.join("a"), channel.join("b")
    first, second = await asyncio.gather(one.ask(None, 1), one.ask(None, 2))
    for said, limit in ((first, 1), (second, 2)):
        assert [row["limit"] for row in said.by.values()] == [limit] * 2


async def test_answers_to_nobodys_question_are_recognised_and_dropped():
    channel = Channel()
    one = channel.join("a")
    answer = Answer("unknown", "p", {}).message()
    assert one.hear(answer)  # while nothing is asked
    channel.silent = 1
    asking = asyncio.create_task(one.ask(None, 5))
    await asyncio.sleep(0)
    assert one.hear(answer)
    assert one.hear(b'{"answer":')  # no JSON
    assert len((await asking).by) == 1


async def test_an_answer_that_comes_after_its_question_is_over_is_dropped():
    channel = Channel()
    one = channel.join("a")
    await one.ask(None, 5)
    nonce = Question.parse(channel.said[0]).nonce
    assert one.hear(Answer(nonce, "p", {}).message())
    assert one._waiting == {}


def test_other_messages_are_left_to_others():
    assert not Channel().join("a").hear(b'{"begun":"a","user":"ada"}')


async def test_an_answer_that_finds_no_redis_is_a_line_in_the_log(caplog):
    channel = Channel()
    one = channel.join("a")
    channel.is_down = True
    with caplog.at_level(logging.WARNING, "hub.inspector"):
        assert one.hear(Question("n", None, 5).message())
        await asyncio.sleep(0.1)
    assert "was not answered" in caplog.text


async def test_questions_that_were_answered_are_not_remembered_for_ever():
    channel = Channel()
    one = channel.join("a")
    for number in range(REMEMBERED + 1):
        one.hear(Question(str(number), None, 5).message())
    await asyncio.sleep(0.1)
    assert len(channel.answers()) == REMEMBERED + 1
    one.hear(Question(str(REMEMBERED), None, 5).message())  # known
    one.hear(Question("0", None, 5).message())  # forgotten
    await asyncio.sleep(0.1)
    assert len(channel.answers()) == REMEMBERED + 2
    assert one._answering == set()


async def test_the_end_does_not_wait_for_answers_that_hang():
    class Hanging(Channel):
        async def announce(self, message: bytes) -> int:
            return await asyncio.get_running_loop().create_future()

    one = Hanging().join("a")
    one.hear(Question("n", None, 5).message())
    await asyncio.sleep(0)
    (task,) = one._answering
    await one.aclose()
    assert task.cancelled()
    assert elapsed() == 0
