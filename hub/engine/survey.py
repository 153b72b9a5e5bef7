"""What an operator asks one process, asked of every process of every hub on this Redis.

A question goes out on the control channel, and each process answers there for itself. So a hub needs to know
neither the others nor their addresses, and nothing is stored. It costs nothing while nobody asks.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hub.broker.seam import Broker
from hub.ending import end_tasks
from hub.errors import BrokerUnavailable
from hub.job.event import JobId
from hub.job.question import Answer, Question
from hub.quiet import quiet_log

logger = quiet_log("hub.inspector")

PATIENCE = 1.0
"""Seconds that the answers may take; a process that is frozen does not answer."""

UNCOUNTED = 0.5
"""The same where Redis does not say how many processes were asked: all this time is waited."""

REMEMBERED = 64
"""Questions that are known to be answered: on a cluster each one comes once per node."""


@dataclass(frozen=True, slots=True)
class Said:
    """`by` process what it said; `asked`: how many processes heard the question, as far as Redis says."""

    by: dict[str, dict[str, Any]]
    asked: int


class Survey:
    """Asks for one process, and answers for it with what `look` returns."""

    def __init__(self, broker: Broker, look: Callable[[JobId | None, int], dict[str, Any]]) -> None:
        self._broker = broker
        self._look = look
        self._process = secrets.token_hex(6)
        self._heard: deque[str] = deque(maxlen=REMEMBERED)
        self._waiting: dict[str, dict[str, dict[str, Any]]] = {}  # answers by question
        self._news = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()

    async def ask(self, job: JobId | None, limit: int) -> Said:
        """What every process says within `PATIENCE` seconds; this one alone, if Redis does not answer."""
        question = Question(secrets.token_hex(8), job, limit)
        said = self._waiting[question.nonce] = {self._process: self._look(job, limit)}
        try:
            asked = await self._broker.announce(question.message())
            async with asyncio.timeout(UNCOUNTED if asked is None else PATIENCE):
                while asked is None or len(said) < asked:
                    self._news.clear()
                    await self._news.wait()
        except BrokerUnavailable:
            asked = None
        except TimeoutError:
            pass
        finally:
            del self._waiting[question.nonce]
        return Said(said, max(asked or 0, len(said)))

    def hear(self, data: bytes) -> bool:
        """A message of the control channel. Returns True if it was a question, or an answer."""
        if Answer.is_one(data):
            self._note(data)
            return True
        question = Question.parse(data)
        if question is None:
            return False
        if question.nonce not in self._heard:
            self._heard.append(question.nonce)
            if question.nonce not in self._waiting:
                task = asyncio.create_task(self._answer(question), name="hub-survey")
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        return True

    def _note(self, data: bytes) -> None:
        if self._waiting and (answer := Answer.parse(data)) is not None and answer.nonce in self._waiting:
            self._waiting[answer.nonce][answer.process] = answer.said
            self._news.set()

    async def _answer(self, question: Question) -> None:
        answer = Answer(question.nonce, self._process, self._look(question.job, question.limit))
        try:
            await self._broker.announce(answer.message())
        except BrokerUnavailable as error:
            logger.warning("an operator's question was not answered: %s", error)

    async def aclose(self) -> None:
        """End what is being answered."""
        await end_tasks(*self._answering)
