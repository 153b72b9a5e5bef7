"""examples/react: built by Vite, and looked at in Chromium, in StrictMode."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from starlette.staticfiles import StaticFiles

from tests.support import producers
from tests.support.browser import chromium
from tests.support.live import live_hub, token
from tests.support.npm import install, npm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The directory that `npm run build` makes, in a copy of the repository's two folders."""
    place = tmp_path_factory.mktemp("react")
    for name in ("examples/react", "hub/static/client"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("node_modules", "dist"))
    npm(install(place / "examples/react"), "run", "build")
    return place / "examples/react/dist"


async def test_a_component_shows_a_build_in_strict_mode(real_redis, built):
    """One connection, although every effect runs twice; another job at a keystroke; an error that can be read."""
    async with live_hub(real_redis) as live, chromium() as browser:
        live.app.mount("/app", StaticFiles(directory=built, html=True))
        job, other = await producers.job(live), await producers.job(live)
        context = await browser.new_context()
        await context.add_cookies([{"name": "__session", "value": token(), "url": live.url}])
        page = await context.new_page()
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        await page.goto(f"{live.url}/app/?job={job}")
        await live.until(lambda: live.hub.statistics().viewers == 1)
        await live.publisher.stage_started(job, "code", "Writing code")
        await page.get_by_text("code Writing code").wait_for()
        await live.publisher.stage_completed(job, "code", duration=2.5)
        await page.get_by_text("code 2.5 s").wait_for()
        await page.get_by_label("The job").fill(other)
        await live.publisher.stage_started(other, "deps", "Installing")
        await page.get_by_text("deps Installing").wait_for()
        await live.until(lambda: live.hub.statistics().viewers == 1)
        assert await page.get_by_text("Writing code").count() == 0
        await live.publisher.ready(other)
        await page.get_by_role("heading", name=f"{other}: ready").wait_for()
        await page.get_by_label("The job").fill("nowhere")
        await page.get_by_role("alert").wait_for()
        assert "no such job" in await page.get_by_role("alert").inner_text()
        assert said == []
