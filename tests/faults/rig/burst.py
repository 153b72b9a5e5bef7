"""Publishes hundreds of events in one pipeline, for scenarios that need many of them."""

from __future__ import annotations

from hub.broker.script import SCRIPT, Publication, interpret
from hub.job.event import dumps, job_id
from tests.faults.rig.judge import Published
from tests.faults.rig.producer import Worker


async def burst(worker: Worker, published: Published, number: int, *, start: int) -> None:
    """Publish `number` events through the script. Redis must stay up: a burst is not retried."""
    known = job_id(published.job)
    assert known is not None, "the test's own job ids are valid"
    bodies = [dumps({"type": "step", "n": start + n, "job_id": known}) for n in range(number)]
    published.tried.update(bodies)
    async with worker.client.pipeline(transaction=False) as pipe:
        pipe.script_load(SCRIPT)
        sha = worker.client.register_script(SCRIPT).sha
        for body in bodies:
            keys, arguments = Publication().prepare(known, [(body, "")], once=None)
            pipe.evalsha(sha, len(keys), *keys, *arguments)
        answers = await pipe.execute()
    for answer, body in zip(answers[1:], bodies, strict=True):
        published.acknowledged[interpret(known, answer).last] = body
