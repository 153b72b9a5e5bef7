"""The rig itself: nothing goes wrong, on both wires, and the judge detects what is wrong."""

from __future__ import annotations

import pytest

from hub.job.event import EventId
from tests.faults.rig.judge import Published, Verdict
from tests.faults.rig.producer import Worker
from tests.faults.rig.watcher import Crowd


@pytest.mark.parametrize("portable", [False, True], ids=["fast", "portable"])
async def test_everybody_sees_everything_when_nothing_goes_wrong(start_redis, start_hub, portable):
    """Two jobs, both transports: every event once, in order, then the end."""
    redis = start_redis()
    hub = start_hub(redis.url, portable=portable)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{number}") for number in range(2)]
        for published in jobs:
            crowd.add(lambda: hub.url, published, each=5)
        await crowd.wait_connected()
        for published in jobs:
            await worker.stream(published, 200, rate=5000)
            await worker.end(published)
        verdicts = await crowd.finish(20)
    assert [verdict.deliveries for verdict in verdicts] == [201] * 20
    assert hub.metric("gaps_total") == 0


E_ = 1000


def judged(*steps) -> list[str]:
    """Returns the judge's problems for a viewer that got these frames."""
    published = Published("j", {EventId(E_, n): f"b{n}" for n in range(5)}, set(), EventId(E_, 4))
    verdict = Verdict(published, "v", cursor=EventId(E_ - 1, 2**64 - 1))
    for step in steps:
        if isinstance(step, int):
            verdict.event(EventId(E_, step), f"b{step}")
            if step == 4:
                verdict.terminal()
        else:
            verdict.control(step, {"status": "ready", "reason": "trimmed", "position": f"{E_}-3"}, None)
    verdict.finish(pardoned=True)
    return verdict.problems


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ((0, 1, 2, 3, 4, "end"), None),
        ((0, "gap", "state", 4, "end"), None),
        ((0, 2, 3, 4, "end"), "something is missing"),
        ((0, 1, 1, 2, 3, 4, "end"), "came again"),
        ((0, 2, 1, 3, 4, "end"), "something is missing"),
        ((0, 1, 2, 3, 4, 3, "end"), "after the terminal"),
        ((0, 1, 2, 3, 4), "never saw the end"),
        ((0, 1, "end"), "without a terminal"),
        ((0, "gap", 1, 2, 3, 4, "end"), "not by the state"),
    ],
)
def test_the_judge_finds_what_is_wrong(steps, wrong):
    """A judge that never complains would prove nothing."""
    problems = judged(*steps)
    assert (not problems) if wrong is None else any(wrong in problem for problem in problems), problems
