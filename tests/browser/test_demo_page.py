"""The demo as a person sees it: a process that runs `push-hub demo`, watched in a real Chromium."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Page

from tests.support.browser import chromium, opened, running

PANELS = ("sse", "ws")
PHONE = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "is_mobile": True}


@asynccontextmanager
async def demo_page(path: str = "", *, pace: float = 0.3, **context) -> AsyncIterator[Page]:
    """A page of a demo that has just started. The slower start of the browser comes first."""
    command = ("-m", "hub", "demo", "--no-browser", "--port", "0", "--pace", str(pace))
    async with (
        chromium() as browser,
        running(*command, said=r"Watch +(http://\S+)") as (url, lines),
        opened(browser, url + path, **context) as page,
    ):
        await page.wait_for_selector("body[data-ready=true]")
        yield page
    assert not [line for line in lines if "Traceback" in line or "ERROR" in line], "\n".join(lines)


async def rows(page: Page, via: str) -> list[tuple[str, dict]]:
    """The raw event log of one transport, oldest first: id ("" for control frames) and content."""
    read = """(rows) => rows.map((row) => [row.dataset.id, row.querySelector("code").textContent])"""
    found = await page.eval_on_selector_all(f'.raw-row[data-via="{via}"]', read)
    return [(event_id, json.loads(text)) for event_id, text in reversed(found)]


async def sideways(page: Page) -> int:
    """Returns by how many pixels the page is wider than the window."""
    return await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


async def test_both_transports_show_one_build_through_a_cut_to_its_end():
    """After the connections are cut, both transports resume without a hole, and the build ends on both."""
    async with demo_page() as page:
        await page.uncheck("#follow")
        for kind in PANELS:
            await page.wait_for_selector(f"#{kind}-panel[data-state=live] .stage[data-stage=code]")
        await page.click("#cut")
        for kind in PANELS:
            await page.wait_for_selector(f"#{kind}-panel[data-state=reconnecting]")
        before = [await page.get_attribute(f"#{kind}-panel", "data-last-id") for kind in PANELS]
        for kind in PANELS:
            await page.wait_for_selector(f"#{kind}-panel[data-caught-up]")
            await page.wait_for_selector(f"#{kind}-panel[data-state=ended]")

        after = [await page.get_attribute(f"#{kind}-panel", "data-last-id") for kind in PANELS]
        caught_up = [int(await page.get_attribute(f"#{kind}-panel", "data-caught-up")) for kind in PANELS]
        missing = [await page.get_attribute(f"#{kind}-panel", "data-missing") for kind in PANELS]
        assert after[0] == after[1]
        assert after[0] not in before
        assert min(caught_up) > 0
        assert missing == ["0", "0"]

        over_sse, over_ws = [await rows(page, kind) for kind in PANELS]
        assert over_sse == over_ws  # the same events, ids and order, nothing twice
        epoch, last = after[0].split("-")
        assert [event_id for event_id, _ in over_sse if event_id] == [
            f"{epoch}-{n}" for n in range(int(last) + 1)
        ]
        assert over_sse[-1] == ("", {"type": "end", "status": "ready"})


async def test_the_page_shows_what_the_events_say():
    """It shows stages with their state, pictures that load, sections of documentation, and the status."""
    async with demo_page(pace=0.1) as page:
        await page.uncheck("#follow")
        for kind in PANELS:
            panel = f"#{kind}-panel"
            await page.wait_for_selector(f"{panel}[data-state=ended]")
            stages = await page.eval_on_selector_all(
                f"{panel} .stage", "(found) => found.map(({dataset}) => [dataset.stage, dataset.status])"
            )
            names = ["scaffold", "code", "deps", "checks", "deploy", "ready"]
            assert stages == [[name, "done"] for name in names]
            assert await page.locator(f"{panel} .doc-section").count() == 5
            await page.wait_for_function(
                "(selector) => document.querySelector(selector)?.naturalWidth > 0",
                arg=f"{panel} .snapshot img",
            )
        await page.wait_for_selector("#status[data-status=ready]")


async def test_the_page_fits_a_phone():
    """The page is never wider than the window, from the first event to the last."""
    async with demo_page(pace=0.1, **PHONE) as page:
        await page.uncheck("#follow")
        await page.wait_for_selector("#ws-panel .stage")
        assert await sideways(page) <= 0
        await page.wait_for_selector("#ws-panel[data-state=ended]")
        assert await sideways(page) <= 0


async def test_the_dashboard_fits_a_phone():
    """The dashboard is not wider than the window either."""
    async with demo_page("/dashboard", pace=0.1, **PHONE) as page:
        await page.wait_for_selector(".card .thumb img")
        assert await sideways(page) <= 0


async def test_the_dashboard_shows_three_builds_on_one_socket():
    """One WebSocket feeds three cards. A click unsubscribes or subscribes a card, and no event is missed."""
    async with demo_page("/dashboard", pace=0.3) as page:
        socket = await heard(page)
        await page.wait_for_selector("#socket[data-state=live]")
        for name in ("atlas", "borealis", "cedar"):
            await page.wait_for_selector(f'.card[data-job^="{name}-"][data-subscribed=true]')
            await page.wait_for_function(
                "(name) => document.querySelector(`.card[data-job^=${name}-]`).dataset.events > 0", arg=name
            )
        assert await page.locator(".card").count() == 3

        card = page.locator('.card[data-job^="atlas-"]')
        await card.locator(".watch").click()
        await page.wait_for_selector('.card[data-job^="atlas-"][data-subscribed=false]')
        frame = await said(socket, page, "unsubscribed")
        silence = len(socket)
        job = frame["job_id"]
        others = {one["job_id"] async for one in more(socket, page, silence, 5)}
        assert others
        assert job not in others

        await card.locator(".watch").click()
        await page.wait_for_selector('.card[data-job^="atlas-"][data-subscribed=true]')
        assert [await one.get_attribute("data-missing") for one in await page.locator(".card").all()] == [
            "0"
        ] * 3


async def heard(page: Page) -> list[dict]:
    """Reload the page. Returns the list that its WebSocket's frames are added to as they come."""
    frames: list[dict] = []

    def listen(socket) -> None:
        socket.on("framereceived", lambda text: frames.append(json.loads(text)))

    page.on("websocket", listen)
    await page.reload()
    return frames


async def said(frames: list[dict], page: Page, kind: str) -> dict:
    """Wait for the first frame of this type."""
    while not (found := [frame for frame in frames if frame["type"] == kind]):
        await page.wait_for_timeout(20)
    return found[0]


async def more(frames: list[dict], page: Page, since: int, number: int) -> AsyncIterator[dict]:
    """Wait for the next `number` events after the first `since` frames."""
    while len([frame for frame in frames[since:] if "id" in frame]) < number:
        await page.wait_for_timeout(20)
    for frame in frames[since:]:
        if "id" in frame:
            yield frame


async def test_a_person_stops_a_build_and_sees_the_worker_obey():
    async with demo_page("/dashboard", pace=0.5) as page:
        card = page.locator('.card[data-job^="atlas-"]')
        await page.wait_for_selector('.card[data-job^="atlas-"][data-subscribed=true]')
        await card.locator(".stop").click()
        await page.wait_for_selector('.card[data-job^="atlas-"][data-status=failed]')
        assert await card.locator(".answer").inner_text() == "Stopping the build"
        assert await card.locator(".stop").is_disabled()
        assert await card.locator(".narration").inner_text() == "Stopped by you"
        # The next run appears by itself, and is not stopped.
        job = await card.get_attribute("data-job")
        await page.wait_for_function(
            "job => document.querySelector('.card[data-job^=atlas-]').dataset.job !== job", arg=job
        )
        await page.wait_for_selector(
            '.card[data-job^="atlas-"][data-subscribed=true]:not([data-status=failed])'
        )
        assert await card.locator(".answer").inner_text() == ""


async def test_a_person_approves_a_build_and_two_pages_see_each_other():
    async with demo_page("/dashboard", pace=0.3) as page:
        other = await page.context.new_page()
        await other.goto(page.url)
        for one in (page, other):
            await one.wait_for_function(
                "() => document.querySelector('.card[data-job^=cedar-] .viewers')?.textContent === '2 viewers'"
            )
        await page.wait_for_selector('.card[data-job^="cedar-"][data-status=approval]', timeout=60_000)
        await page.locator('.card[data-job^="cedar-"] .approve').click()
        for one in (page, other):
            answer = one.locator('.card[data-job^="cedar-"] .answer', has_text="Going on: it was approved")
            await answer.wait_for()
        await page.wait_for_selector('.card[data-job^="cedar-"][data-status=ready]')


async def test_a_stopped_build_over_sse_and_post():
    """The page that watches one build gives the same command."""
    async with demo_page("/", pace=0.5) as page:
        told = await page.evaluate(
            """async () => {
              const { watch } = await import("/hub.js");
              const { jobs } = await (await fetch("/api/jobs")).json();
              const job = watch(jobs.find((one) => one.status !== "failed" && one.status !== "ready").job_id, { transport: "sse" });
              const done = new Promise((resolve) => job.addEventListener("command.done", ({ detail }) => resolve(detail.name)));
              await job.command("cancel");
              const name = await done, { status } = await job.done;
              return [name, status];
            }"""
        )
    assert told == ["cancel", "failed"]
