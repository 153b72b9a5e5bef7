"""Firefox by WebDriver BiDi, and WebKitGTK by WebDriver: what a test needs of a page in another browser than Chromium."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.faults.rig.process import free_port

MINI_BROWSER = "/usr/lib/*/webkit2gtk-4.*/MiniBrowser"


class Page(Protocol):
    """One page of a browser."""

    async def goto(self, url: str) -> None:
        """Load a page, and wait until it is there."""

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""


async def until(page: Page, expression: str, *, timeout: float = 30) -> Any:
    """Wait until an expression is true. Returns its value."""
    async with asyncio.timeout(timeout):
        while not (value := await page.evaluate(expression)):
            await asyncio.sleep(0.05)
        return value


class Firefox:
    """A page of Firefox, over its own protocol (W3C WebDriver BiDi)."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._context = ""

    async def begin(self) -> None:
        await self._ask("session.new", capabilities={})
        tree = await self._ask("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]

    async def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(await asyncio.wait_for(self._socket.recv(), 30))
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]

    async def goto(self, url: str) -> None:
        await self._ask("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        # As JSON text, because BiDi describes values in a form of its own.
        text = f"Promise.resolve({expression}).then((value) => JSON.stringify(value ?? null))"
        target = {"context": self._context}
        answer = await self._ask("script.evaluate", expression=text, target=target, awaitPromise=True)
        assert answer["type"] == "success", answer["exceptionDetails"]
        return json.loads(answer["result"]["value"])


class WebKit:
    """A page of WebKitGTK's MiniBrowser, over W3C WebDriver."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._session = ""

    async def begin(self, binary: str) -> None:
        options = {"webkitgtk:browserOptions": {"binary": binary, "args": ["--automation"]}}
        answer = await self._ask("", capabilities={"alwaysMatch": options})
        self._session = f"/{answer['sessionId']}"

    async def _ask(self, path: str, **body: Any) -> Any:
        answer = await self._client.post(f"/session{self._session}{path}", json=body)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    async def end(self) -> None:
        if self._session:
            await self._client.delete(f"/session{self._session}")

    async def goto(self, url: str) -> None:
        await self._ask("/url", url=url)

    async def evaluate(self, expression: str) -> Any:
        script = (
            f"const done = arguments[0]; Promise.resolve({expression})"
            ".then((value) => done(JSON.stringify(value ?? null)), (error) => done(`!${error}`));"
        )
        text = await self._ask("/execute/async", script=script, args=[])
        assert not text.startswith("!"), text
        return json.loads(text)


@asynccontextmanager
async def firefox() -> AsyncIterator[Firefox]:
    """A page of Debian's firefox-esr, in a profile of its own."""
    binary = shutil.which("firefox-esr") or shutil.which("firefox")
    if binary is None:
        pytest.skip("no firefox browser")
    with tempfile.TemporaryDirectory(prefix="push-hub-firefox-", ignore_cleanup_errors=True) as profile:
        words = (
            "--headless",
            "--no-remote",
            "--remote-debugging-port=0",
            "--profile",
            profile,
            "about:blank",
        )
        process = await asyncio.create_subprocess_exec(
            binary,
            *words,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": profile},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(60):
                assert process.stderr is not None
                while not (
                    found := re.search(rb"BiDi listening on (ws://\S+)", await process.stderr.readline())
                ):
                    assert process.returncode is None, "firefox ended"
            draining = asyncio.create_task(process.stderr.read())
            async with connect(f"{found[1].decode()}/session", max_size=None) as socket:
                page = Firefox(socket)
                await page.begin()
                yield page
        finally:
            await _kill(process)
        await draining


@asynccontextmanager
async def webkit() -> AsyncIterator[WebKit]:
    """A page of WebKitGTK (Debian's webkit2gtk-driver), on a display of its own (xvfb)."""
    driver, display = shutil.which("WebKitWebDriver"), shutil.which("xvfb-run")
    binary = next(iter(sorted(Path("/").glob(MINI_BROWSER[1:]))), None)
    if driver is None or display is None or binary is None:
        pytest.skip("no webkit browser")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="push-hub-webkit-", ignore_cleanup_errors=True) as home:
        process = await asyncio.create_subprocess_exec(
            display,
            "-a",
            driver,
            f"--port={port}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "HOME": home, "WEBKIT_DISABLE_COMPOSITING_MODE": "1"},
            start_new_session=True,
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                await _answers(client)
                page = WebKit(client)
                await page.begin(str(binary))
                yield page
                await page.end()
        finally:
            await _kill(process)


async def _answers(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await client.get("/status")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End a browser and all its processes: they are a session of their own."""
    if process.returncode is None:
        os.killpg(process.pid, 9)
    await process.wait()
