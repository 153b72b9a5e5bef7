"""Answers that are not event streams: state, pages, long poll, old status stream, operations, caps."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.support import producers
from tests.support.live import operator
from tests.support.sse import SseViewer
from tests.support.viewer import bearer, view, with_headers

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def get(live, path: str, *, headers=None, **params):
    """One authenticated GET."""
    async with httpx.AsyncClient(base_url=live.url, timeout=15, headers=headers or bearer()) as http:
        return await http.get(path, params=params)


async def page(live, job, **params) -> dict:
    """One page of a log."""
    answer = await get(live, f"/api/jobs/{job}/events", **params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_state_of_a_job(live):
    """It has status, position, public fields and the last event of each type."""
    job = await producers.job(live, title="T", secret="s")
    await live.publisher.stage_started(job, "code", "one")
    await live.publisher.stage_started(job, "deps", "two")
    last = await live.publisher.snapshot_updated(job, "/1.svg")
    state = (await get(live, f"/api/jobs/{job}")).json()
    assert (state["job_id"], state["status"], state["position"]) == (job, "deps", str(last))
    assert state["last"]["build.stage.started"]["narration"] == "two"
    assert state["last"]["snapshot.updated"]["url"] == "/1.svg"
    assert state["job"]["title"] == "T"
    assert "s" not in state["job"].values()


async def test_pages_follow_one_cursor_through_the_log(live, job):
    """The `position` of a page is the `after` of the next one; no event is missing or repeated."""
    await producers.publish(live, job, 25)
    await live.publisher.ready(job)
    seen, cursor, ended = [], None, False
    for _ in range(3):
        assert not ended
        one = await page(live, job, limit=10, **({"after": cursor} if cursor else {}))
        seen, cursor, ended = seen + one["events"], one["position"], one["ended"]
    assert [event.get("n") for event in seen] == [*range(25), None]
    assert ended
    assert [event["id"].split("-")[1] for event in seen] == [str(n) for n in range(26)]


async def test_a_page_and_a_stream_have_the_same_cursor(live, watch, job):
    """A page can continue a stream, and a stream can continue a page."""
    await producers.publish(live, job, 6)
    async with watch(job) as viewer:
        await viewer.take(2)
    one = await page(live, job, after=viewer.cursor, limit=2)
    assert [event["n"] for event in one["events"]] == [2, 3]
    async with watch(job, cursor=one["position"]) as viewer:
        assert producers.numbers(await viewer.take(2)) == [4, 5]


async def test_a_page_reaches_back_beyond_memory(start_hub):
    """300 retained events are read in pages, with a window of 20."""
    async with start_hub(window_events=20) as live:
        job = await producers.job(live)
        await producers.retain(live.client, job, 300)
        seen, cursor = [], None
        while len(seen) < 300:
            one = await page(live, job, limit=70, **({"after": cursor} if cursor else {}))
            assert one["events"], cursor
            seen, cursor = seen + one["events"], one["position"]
    assert [event["n"] for event in seen] == list(range(300))


@pytest.mark.parametrize("after", ["-", "1-0", "9999999999999-9"])
async def test_a_page_after_a_bad_cursor_says_so(live, job, after):
    """The page has the notices of a stream, and a position that can be resumed."""
    await producers.publish(live, job, 3)
    one = await page(live, job, after=after)
    assert [notice["type"] for notice in one["notices"]] == ["resync", "state"]
    await producers.publish(live, job, 1, start=3)
    assert [event["n"] for event in (await page(live, job, after=one["position"]))["events"]] == [3]


async def test_a_long_poll_is_answered_by_the_next_event(live, job):
    """The answer comes with the event, not at the end of the wait."""
    (first,) = await producers.publish(live, job, 1)
    async with asyncio.timeout(3):
        polling = asyncio.create_task(page(live, job, after=str(first), wait=5))
        await live.until(lambda: any(audience.seats for audience in live.hub.feeds.audiences()))
        await producers.publish(live, job, 1, start=1)
        one = await polling
    assert [event["n"] for event in one["events"]] == [1]


async def test_a_long_poll_for_some_types_is_answered_by_one_of_them(live, job):
    """Events of other types do not end the wait."""
    async with asyncio.timeout(3):
        polling = asyncio.create_task(page(live, job, types="good", wait=5))
        await live.until(lambda: any(audience.seats for audience in live.hub.feeds.audiences()))
        await producers.publish(live, job, 3)
        await live.publisher.emit(job, "good", {"n": 3})
        one = await polling
    assert [event["n"] for event in one["events"]] == [3]


async def test_a_long_poll_is_answered_by_the_end(live, job):
    """The end of the job ends the wait."""
    async with asyncio.timeout(3):
        polling = asyncio.create_task(page(live, job, wait=5))
        await live.until(lambda: any(audience.seats for audience in live.hub.feeds.audiences()))
        await live.publisher.ready(job)
        one = await polling
    assert one["ended"]
    assert [event["status"] for event in one["events"]] == ["ready"]


async def test_a_page_shows_what_is_nested_too_deep_as_text(redis, live):
    """As over WebSocket, so that the page can be parsed by whoever parses 64 levels and a few."""
    job = await producers.foreign_job(redis)
    body = '{"type":"x","a":' + "[" * 64 + "]" * 64 + "}"
    async with view(live, "sse", job) as viewer:
        await producers.shout(redis, job, body)
        (seen,) = await viewer.take(1)
        one = await page(live, job)
        polling = asyncio.create_task(page(live, job, after=seen.id, wait=5))
        await live.until(lambda: live.hub.statistics().viewers == 2)
        await producers.shout(redis, job, body)
        polled = await polling
    assert [event["data"] for event in one["events"] + polled["events"]] == [body] * 2


async def test_a_long_poll_gives_up_after_its_wait(live, job):
    """The page is empty and has a position, and no viewer is left."""
    one = await page(live, job, wait=0.05)
    assert (one["events"], one["ended"]) == ([], False)
    assert one["position"]


async def test_a_viewer_that_abandons_a_long_poll_gives_its_place_back(live, job):
    """The viewer is gone at once, not at the end of the wait."""
    polling = asyncio.create_task(page(live, job, wait=30))
    await live.until(lambda: live.hub.statistics().viewers == 1)
    polling.cancel()
    await asyncio.wait([polling])
    await live.until(lambda: live.hub.statistics().viewers == 0, timeout=5)


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": 1001}, {"wait": 31}, {"wait": -1}, {"limit": "x"}]
)
async def test_a_page_has_bounds(live, job, params):
    """The limit is 1 to 1000 and the wait at most 30 s; other values are refused."""
    assert (await get(live, f"/api/jobs/{job}/events", **params)).status_code == 422


async def test_the_older_status_stream_says_the_status_first(live):
    """The first event is `{"job_id", "status", "message"}`; every event follows, up to the end."""
    job = await producers.job(live, status="starting", message="hello")
    async with with_headers(live, f"/api/jobs/{job}/stream", bearer()) as viewer:
        assert viewer.headers["content-type"].startswith("text/event-stream")
        await producers.publish(live, job, 2)
        await live.publisher.ready(job)
        first, *events = await viewer.all()
    assert json.loads(first.text) == {"job_id": job, "status": "starting", "message": "hello"}
    assert [one.name for one in events[:3]] == ["step", "step", "build.stage.started"]
    assert viewer.viewer.ended


async def test_the_older_status_stream_of_an_ended_job_ends(live, redis):
    """The status comes, then the stream is closed."""
    job = await producers.foreign_job(redis, status="failed")
    async with with_headers(live, f"/api/jobs/{job}/stream", bearer()) as viewer:
        first, *_ = await viewer.all()
    assert json.loads(first.text) == {"job_id": job, "status": "failed", "message": ""}
    assert viewer.viewer.ended


async def test_operations_answer_the_operator(live):
    """Health and readiness need no credentials."""
    async with httpx.AsyncClient(base_url=live.url, timeout=10) as http:
        answers = {path: await http.get(path) for path in ("/healthz", "/readyz")}
        for path in ("/metrics", "/docs", "/openapi.json", "/asyncapi.json"):
            answers[path] = await http.get(path, headers=operator())
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(answers, 200)
    assert answers["/readyz"].json()["redis"] is True


async def test_metrics_count_the_viewers_of_this_hub(live, job):
    """The metrics are those of the hub that serves the viewers."""
    async with view(live, "sse", job), view(live, "websocket", job):
        await live.until(lambda: live.hub.statistics().viewers == 2)
        text = (await get(live, "/metrics", headers=operator())).text
    values = {line.split()[0]: line.split()[1] for line in text.splitlines() if line and line[0] != "#"}
    assert {value for name, value in values.items() if name.endswith("viewers")} == {"2.0"}


async def test_readiness_is_red_while_draining(redis, start_hub):
    """A draining hub refuses viewers, so load balancers must not send any."""
    async with start_hub() as live:
        await live.until(lambda: live.hub.broker.subscriber.connected)
        assert (await get(live, "/readyz")).status_code == 200
        await live.context.drain()
        assert (await get(live, "/readyz")).status_code == 503
        assert (await get(live, "/healthz")).status_code == 200


async def test_a_full_hub_answers_503_to_a_client_that_is_no_browser(start_hub):
    """Such a client sees the status, and its backoff does not end with an accepted handshake."""
    async with start_hub(max_viewers_per_user_and_job=1) as live:
        job = await producers.job(live)
        async with view(live, "sse", job):
            for path in (f"/api/jobs/{job}/events/stream", f"/api/jobs/{job}/events/ws"):
                async with with_headers(live, path, bearer()) as refused:
                    assert refused.status == 503
                    assert int(refused.headers["retry-after"]) > 0
        await live.context.drain()
        async with with_headers(live, "/api/events/ws", bearer()) as refused:
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) > 0


async def test_the_cap_of_a_user_on_a_job_refuses_the_new_and_keeps_the_old(start_hub):
    """SSE answers 200 with `reconnect`, as any other status stops an EventSource; WebSocket closes 4013."""
    async with start_hub(max_viewers_per_user_and_job=2) as live:
        job, other = await producers.job(live), await producers.job(live)
        async with view(live, "sse", job) as one, view(live, "websocket", job) as two:
            async with view(live, "sse", job) as refused:
                assert refused.status == 200
                assert refused.headers["content-type"].startswith("text/event-stream")
                (away,) = await refused.all()
                assert (away.name, refused.closed) == ("reconnect", "reconnect")
                assert away.fields["after_ms"] == refused.viewer.parser.retry > 0
            async with view(live, "websocket", job) as refused:
                assert await refused.all() == []
                assert refused.code == 4013
            async with view(live, "sse", other) as welcome:
                assert welcome.cursor
            await live.publisher.ready(job)
            assert (await one.all())[-1].name == (await two.all())[-1].name == "end"
        assert live.hub.statistics().refused == 2


async def test_a_place_is_free_again_when_its_viewer_left(start_hub, transport):
    """This holds for every way to leave, repeatedly."""
    async with start_hub(max_viewers_per_user_and_job=1) as live:
        job = await producers.job(live)
        for _ in range(5):
            async with view(live, transport, job):
                await live.until(lambda: live.hub.statistics().viewers == 1)
            await live.until(lambda: live.hub.statistics().viewers == 0)
        assert live.hub.statistics().refused == 0


async def test_the_cap_of_the_process_refuses_the_new(start_hub, transport):
    """The cap of the process applies to all users."""
    async with start_hub(max_viewers=1) as live:
        mine, theirs = await producers.job(live), await producers.job(live, user="bob")
        async with view(live, transport, mine) as one:
            async with view(live, transport, theirs, user="bob") as refused:
                await refused.all()
                assert refused.closed == "reconnect"
            await live.publisher.ready(mine)
            assert (await one.all())[-1].name == "end"


async def test_a_head_request_leaves_no_viewer(live, job):
    """Whatever the answer is, no stream is sent to a HEAD request."""
    async with httpx.AsyncClient(base_url=live.url, timeout=10, headers=bearer()) as http:
        answer = await http.head(f"/api/jobs/{job}/events/stream")
    assert answer.status_code in (200, 405)
    await live.until(lambda: live.hub.statistics().viewers == 0)


async def test_http_1_0_gets_a_stream_that_ends_with_the_connection(live, job):
    """A proxy with the old protocol gets the stream and its end."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        head = f"GET /api/jobs/{job}/events/stream HTTP/1.0\r\nAuthorization: "
        writer.write(f"{head}{bearer()['Authorization']}\r\n\r\n".encode())
        await reader.readuntil(b"retry: ")
        await live.publisher.ready(job)
        rest = await reader.read()
        writer.close()
    assert b'event: end\ndata: {"status":"ready"}\n\n' in rest


async def test_two_requests_on_one_connection(live, job):
    """After a refused stream the connection serves the next request, also a stream."""
    await producers.publish(live, job, 1)
    async with SseViewer(
        f"{live.url}/api/jobs/nothing/events/stream", bearer()["Authorization"][7:]
    ) as first:
        assert first.status == 404
        await asyncio.wait_for(first.body(), 10)
        head = f"GET /api/jobs/{job}/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: "
        first.writer.write(f"{head}{bearer()['Authorization']}\r\n\r\n".encode())
        head = await asyncio.wait_for(first.reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200")
        first.headers = {"transfer-encoding": "chunked"}
        assert (await first.next()).json["n"] == 0
