"""hub.js and the Python client give commands to a worker, over networks that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hub import HubError, give_command, give_command_sync
from hub.errors import (
    BrokerUnavailable,
    InvalidCommand,
    JobEnded,
    JobNotFound,
    NobodyListens,
    TooManyCommands,
)
from tests.clients.test_hub_js import page_on
from tests.support import producers
from tests.support.live import Live, live_hub, token


@pytest.fixture
async def live(real_redis) -> AsyncIterator[Live]:
    async with live_hub(real_redis, commands="cancel,approve", max_commands=30) as one:
        yield one


@asynccontextmanager
async def worker_of(live: Live, job: str) -> AsyncIterator[list[tuple[str, dict]]]:
    """A worker that obeys; what it has heard so far."""
    heard: list[tuple[str, dict]] = []

    async def work() -> None:
        async for command in live.publisher.commands(job):
            heard.append((command.name, dict(command.args)))
            await command.done()

    task = asyncio.create_task(work())
    async with asyncio.timeout(10):
        while not await live.client.hget(f"push-hub:{{job:{job}}}:meta", "listens"):
            await asyncio.sleep(0.01)
    yield heard
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


GIVE = """async ([job, kind, transport]) => {
  const watching = kind === "dashboard" ? hub.dashboard().watch(job) : hub.watch(job, transport ? { transport } : {});
  const done = new Promise((resolve) => watching.addEventListener("command.done", ({ detail }) => resolve(detail)));
  const id = await watching.command("cancel", { why: "enough" });
  const answer = await done;
  watching.close();
  return [id, answer.command, answer.name];
}"""


@pytest.mark.parametrize(
    ("kind", "transport"), [("watch", None), ("watch", "sse"), ("watch", "poll"), ("dashboard", None)]
)
async def test_a_page_gives_a_command_and_sees_the_answer(live, kind, transport):
    job = await producers.job(live, events=1)
    async with worker_of(live, job) as heard, page_on(live, live.port) as page:
        given, answered, name = await page.evaluate(GIVE, [job, kind, transport])
    assert given == answered
    assert name == "cancel"
    assert heard == [("cancel", {"why": "enough"})]


async def test_a_page_learns_why_a_command_was_not_taken(live):
    job, others, over = (
        await producers.job(live, events=1),
        await producers.job(live, user="eve"),
        await producers.job(live),
    )
    await live.publisher.ready(over)
    async with page_on(live, live.port) as page:
        codes = await page.evaluate(
            """async ([job, others, over]) => {
              const codes = [];
              for (const [id, name, args] of [[job, "cancel"], [job, "delete"], [others, "cancel"], [over, "cancel"]]) {
                const one = hub.watch(id, { transport: "poll" });
                one.done.catch(() => {});
                codes.push(await one.command(name, args).catch((error) => error.code));
                one.close();
              }
              return codes;
            }""",
            [job, others, over],
        )
    assert codes == ["conflict", "invalid", "not_found", "conflict"]


class Flaky:
    """A proxy in front of a hub that fails so many times, each time in another way: before it passes the request
    on, and after it has, so that the answer is lost.
    """

    def __init__(self, port: int, fails: list[str]) -> None:
        self._upstream, self._fails = port, fails

    async def __aenter__(self) -> Flaky:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        kind = self._fails.pop(0) if b"/commands " in head and self._fails else "whole"
        if kind == "502":
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif kind != "reset":
            upstream, out = await asyncio.open_connection("127.0.0.1", self._upstream)
            out.write(
                head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n").replace(
                    b"Connection: keep-alive\r\n", b""
                )
            )
            length = next(
                (
                    int(line[15:])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ),
                0,
            )
            out.write(await reader.readexactly(length))
            answer = await upstream.read()
            out.close()
            if kind == "whole":
                writer.write(answer)
        writer.close()


async def test_python_gives_one_command_over_a_network_that_fails(live):
    job = await producers.job(live, events=1)
    async with worker_of(live, job) as heard, Flaky(live.port, ["reset", "502", "lost"]) as flaky:
        given = await give_command(f"http://127.0.0.1:{flaky.port}", job, "cancel", {"n": 1}, token)
        assert given != await give_command(live.url, job, "approve", key="one", token=token())
        async with asyncio.timeout(10):
            while len(heard) < 2:
                await asyncio.sleep(0.01)
    assert heard == [("cancel", {"n": 1}), ("approve", {})]


async def test_python_learns_why_a_command_was_not_taken(live):
    job, over = await producers.job(live, events=1), await producers.job(live)
    await live.publisher.ready(over)
    cases: list[tuple[str, str, str, type[HubError]]] = [
        (job, "cancel", "ada", NobodyListens),
        (job, "delete", "ada", InvalidCommand),
        (job, "cancel", "eve", JobNotFound),
        (job, "cancel", "", JobNotFound),
        (over, "cancel", "ada", JobEnded),
    ]
    for one, name, user, expected in cases:
        with pytest.raises(expected):
            await give_command(live.url, one, name, token=token(user) if user else "")
    async with live.publisher.lease(job):
        with pytest.raises(TooManyCommands):
            for _ in range(60):
                await give_command(live.url, job, "cancel", token=token())


async def test_python_gives_up_on_a_hub_that_is_not_there(monkeypatch):
    monkeypatch.setattr("hub.client.giving.TRIES", 2)
    with pytest.raises(BrokerUnavailable):
        await give_command("http://127.0.0.1:9", "job", "cancel")


async def test_blocking_code_gives_commands_and_hears_them(live, redis_server):
    from hub import SyncPublisher

    job = await producers.job(live, events=1)

    def work() -> list[tuple[str, dict]]:
        with SyncPublisher.from_url(redis_server.url, strict=True) as publisher:
            assert publisher.next_command(job) is None
            heard = []
            while (command := publisher.next_command(job, timeout=10)) is not None:
                heard.append((command.name, dict(command.args)))
                assert command.user == "ada"
                if command.name == "cancel":
                    assert command.done() is not None
                    publisher.failed(job, "Stopped.")
                else:
                    command.refused("no")
            return heard

    task = asyncio.create_task(asyncio.to_thread(work))
    async with asyncio.timeout(10):
        while not await live.client.hget(f"push-hub:{{job:{job}}}:meta", "listens"):
            await asyncio.sleep(0.01)
    await asyncio.to_thread(give_command_sync, live.url, job, "approve", token=token())
    await asyncio.to_thread(give_command_sync, live.url, job, "cancel", {"why": "enough"}, token())
    assert await task == [("approve", {}), ("cancel", {"why": "enough"})]


async def test_a_blocking_lease_says_that_the_job_is_cancelled(live, redis_server, monkeypatch):
    from hub import SyncPublisher

    monkeypatch.setattr("hub.produce.lease.LOOK", 0.01)
    job = await producers.job(live, events=1)

    def work() -> bool:
        with SyncPublisher.from_url(redis_server.url) as publisher, publisher.lease(job) as lease:
            for _ in range(1000):
                if lease.cancelled:
                    return True
                threading_wait(0.01)
        return False

    from time import sleep as threading_wait

    task = asyncio.create_task(asyncio.to_thread(work))
    async with asyncio.timeout(10):
        while not await live.client.hget(f"push-hub:{{job:{job}}}:meta", "lease"):
            await asyncio.sleep(0.01)
    await give_command(live.url, job, "cancel", token=token())
    assert await task


async def test_a_page_sees_jobs_that_begin_elsewhere(live):
    first = await producers.job(live, events=1)
    async with page_on(live, live.port) as page:
        await page.evaluate(
            """() => {
              window.seen = [];
              window.board = hub.dashboard({ mine: true });
              board.addEventListener("job", ({ detail: { id, job } }) => {
                seen.push(id);
                job.addEventListener("end", () => seen.push(`${id} ${job.state.status}`));
              });
            }"""
        )
        await page.wait_for_function("id => seen.includes(id)", arg=first)
        second = await producers.job(live)
        await page.wait_for_function("id => seen.includes(id)", arg=second)
        await live.publisher.ready(second)
        await page.wait_for_function("id => seen.includes(`${id} ready`)", arg=second)
        await page.evaluate("() => board.close()")
