"""Each piece of code in docs/applications.md is run, in the order of the page."""

from __future__ import annotations

import re

import httpx
import pytest

from hub import JobStateMachine, Publisher
from hub.job.catalogue import CATALOGUE
from tests.reports.test_publishers import bodies
from tests.support.browser import ROOT


@pytest.fixture
def page(redis_server, monkeypatch):
    """The names that the page's code defines."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setattr("hub.job.catalogue.CATALOGUE", dict(CATALOGUE))
    names: dict = {"__name__": "page"}
    text = (ROOT / "docs/applications.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/applications.md", "exec", dont_inherit=True), names)
    return names


@pytest.fixture
async def publish(redis_server, real_redis):
    async with Publisher.from_url(redis_server.url) as publisher:
        for job in ("7", "a"):
            await JobStateMachine(real_redis).create_job(job, user_id="7")
        yield publisher
        assert publisher.failures == 0


async def test_what_a_worker_does(page, publish, redis_server):
    await page["bill"](publish, 7)
    assert bodies(redis_server, 7) == [
        {"type": "invoice.created", "total": "12.50", "due": "2026-12-24", "job_id": "7"}
    ]
    await page["answer"](publish, "a", ["It", "is", "done"])
    await page["render"](publish, "a")
    seen = bodies(redis_server, "a")
    assert [event["type"] for event in seen[:2]] == ["answer.started", "answer.thought"]
    assert [event["text"] for event in seen[2:5]] == ["It", "is", "done"]
    assert seen[5] == {"type": "render.progress", "done": 3, "of": 10, "job_id": "a"}
    await page["try_again"](publish, "a")
    assert [event.get("narration") for event in bodies(redis_server, "a")] == ["Attempt 2", None]


async def test_what_a_web_application_does(page, publish):
    await publish.ready("7")
    transport = httpx.ASGITransport(page["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        path = "/push/api/jobs/7/events/stream"
        assert (await client.get(path)).status_code == 404
        client.cookies.set("session", "a-session")
        assert '"status":"ready"' in (await client.get(path)).text.replace(": ", ":")
        assert (await client.get(path, headers={"maintenance": "yes"})).status_code == 503
    await page["app"].state.push_hub.aclose()
    await page["client"].aclose()
