"""A real Chromium, and real child processes.

Without a Chromium a browser test is skipped with that reason, so that the suite passes on a machine with
nothing but Python. With CI=true it fails instead, because in CI a skip would go unnoticed.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Playwright, async_playwright

ROOT = Path(__file__).parents[2]

NAMES = ("chromium", "chromium-browser", "google-chrome")

ARGUMENTS = [
    "--no-sandbox",  # else Chromium refuses to run as root, as in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # a test must connect to its own server only
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium(playwright: Playwright) -> str | None:
    """Returns the path of a Chromium on the PATH, else of playwright's own, if it was installed."""
    own = playwright.chromium.executable_path
    return next(filter(None, map(shutil.which, NAMES)), own if Path(own).exists() else None)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A running browser. Skips the test (in CI: fails it) if there is no Chromium."""
    async with async_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            missing = f"no Chromium: expected one of {', '.join(NAMES)} on the PATH"
            if os.environ.get("CI") == "true":
                pytest.fail(missing)
            pytest.skip(missing)
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(browser: Browser, url: str, **context) -> AsyncIterator[Page]:
    """A page in a session of its own. Fails at the end if its console has shown an error."""
    session = await browser.new_context(**context)
    page = await session.new_page()
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    await page.goto(url)
    yield page
    await session.close()
    assert problems == [], problems


@asynccontextmanager
async def running(*command: str, said: str, **environment: str) -> AsyncIterator[tuple[str, list[str]]]:
    """Run `python COMMAND`. Yields what the group in `said` matched in its output, and its lines so far.

    At the end it gets SIGINT, as by Ctrl-C, and must end by itself.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        *command,
        cwd=ROOT,
        env=os.environ | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    lines: list[str] = []
    try:
        found = await asyncio.wait_for(_look_for(process.stdout, said, lines), 30)
        reading = asyncio.create_task(_look_for(process.stdout, None, lines))
        yield found, lines
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
    await reading


async def _look_for(stream: asyncio.StreamReader, said: str | None, lines: list[str]) -> str:
    while line := (await stream.readline()).decode():
        lines.append(line.rstrip())
        if said and (match := re.search(said, line)):
            return match[1]
    assert said is None, f"expected {said!r}, got {lines}"
    return ""
