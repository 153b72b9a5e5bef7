"""One Python library at a time watches a job, as docs/clients.md says that it is used: python clients.py LIBRARY URL JOB
TOKEN TICKET. Prints a line of JSON for each event, and one for the end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from urllib.parse import urlencode

library, url, job, token, ticket = sys.argv[1:]
stream = f"{url}/api/jobs/{job}/events/stream"
socket = f"{url.replace('http', 'ws')}/api/jobs/{job}/events/ws"
headers = {"Authorization": f"Bearer {token}"}
cursor = ""
is_over = False


def say(**line) -> None:
    print(json.dumps(line), flush=True)


def saw(event_id: str, fields: dict) -> None:
    say(id=event_id, n=fields.get("n"), digest=hashlib.sha256(fields.get("text", "").encode()).hexdigest())


def message(name: str, event_id: str, data: str) -> None:
    """A message of an event stream. Events have no name, control frames have one."""
    global cursor, is_over
    cursor = event_id or cursor
    if name == "end":
        is_over = True
        say(end=json.loads(data)["status"])
    elif name in ("", "message"):
        saw(event_id, json.loads(data))


def frame(text: str) -> None:
    """A frame of a WebSocket."""
    global cursor, is_over
    fields = json.loads(text)
    event_id = fields.pop("id", None)
    if event_id is not None:
        cursor = event_id
        saw(event_id, fields)
    elif fields["type"] in ("hello", "state"):
        cursor = fields.get("position") or cursor
    elif fields["type"] == "end":
        is_over = True
        say(end=fields["status"])


def resumed() -> dict[str, str]:
    return {**headers, **({"Last-Event-ID": cursor} if cursor else {})}


def address() -> str:
    return f"{socket}?{urlencode({'last_event_id': cursor})}" if cursor else socket


def httpx_sse() -> None:
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client(timeout=40) as client:  # the default is shorter than a heartbeat
        while not is_over:
            try:
                with connect_sse(client, "GET", stream, headers=resumed()) as source:
                    if source.response.status_code in (204, 404):
                        return
                    for one in source.iter_sse():
                        message(one.event, one.id, one.data)
            except httpx.HTTPError:
                time.sleep(0.5)


def sseclient_py() -> None:
    import requests
    from sseclient import SSEClient

    while not is_over:
        try:
            answer = requests.get(stream, headers=resumed(), stream=True, timeout=40)
            if answer.status_code in (204, 404):
                return
            for one in SSEClient(answer.iter_content(None)).events():
                message(one.event, one.id or "", one.data)
        except requests.RequestException:
            time.sleep(0.5)


def requests_sse() -> None:
    from requests.exceptions import RequestException
    from requests_sse import EventSource, InvalidStatusCodeError

    with EventSource(stream, headers=headers, timeout=40) as source:
        try:
            for one in source:
                message(one.type, one.last_event_id, one.data)
                if is_over:
                    return
        except (InvalidStatusCodeError, RequestException):
            return


def websocket_client() -> None:
    import websocket

    while not is_over:
        one = websocket.WebSocket()
        try:
            one.connect(address(), header=[f"Authorization: Bearer {token}"], timeout=40)
            while True:
                code, data = one.recv_data()
                if code == websocket.ABNF.OPCODE_CLOSE:
                    break
                if code == websocket.ABNF.OPCODE_TEXT:
                    frame(data.decode())
        except (websocket.WebSocketException, OSError):
            time.sleep(0.5)
        finally:
            one.close()


async def websockets_async() -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake

    while not is_over:
        try:
            async with connect(address(), additional_headers=headers, max_size=None) as one:
                async for text in one:
                    frame(text)
        except (OSError, ConnectionClosed, InvalidHandshake):
            await asyncio.sleep(0.5)


def websockets_sync() -> None:
    from websockets.exceptions import ConnectionClosed, InvalidHandshake
    from websockets.sync.client import connect

    while not is_over:
        try:
            with connect(address(), additional_headers=headers, max_size=None) as one:
                for text in one:
                    frame(text)
        except (OSError, ConnectionClosed, InvalidHandshake):
            time.sleep(0.5)


async def aiohttp() -> None:
    import aiohttp

    async with aiohttp.ClientSession(headers=headers) as session:
        while not is_over:
            try:
                async with session.ws_connect(address(), max_msg_size=0) as one:
                    async for text in one:
                        frame(text.data)
            except aiohttp.ClientError:
                await asyncio.sleep(0.5)


async def httpx_ws() -> None:
    import httpx
    from httpx_ws import HTTPXWSException, aconnect_ws
    from wsproto.utilities import ProtocolError

    while not is_over:
        try:
            async with (
                httpx.AsyncClient(headers=headers) as client,
                aconnect_ws(address(), client, max_message_size_bytes=10**7) as one,
            ):
                while not is_over:
                    frame(await one.receive_text())
        except* (httpx.HTTPError, HTTPXWSException, ProtocolError, OSError):
            await asyncio.sleep(0.5)


def hub_watch() -> None:
    from hub import watch_sync

    for one in watch_sync(url, job, token):
        frame(json.dumps(one))


LIBRARIES = {
    "httpx-sse": httpx_sse,
    "sseclient-py": sseclient_py,
    "requests-sse": requests_sse,
    "websocket-client": websocket_client,
    "websockets": websockets_async,
    "websockets, blocking": websockets_sync,
    "aiohttp": aiohttp,
    "httpx-ws": httpx_ws,
    "hub.watch_sync": hub_watch,
}

if __name__ == "__main__":
    found = LIBRARIES[library]()
    if found is not None:
        asyncio.run(found)
