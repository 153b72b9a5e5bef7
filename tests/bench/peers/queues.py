"""Peer: the usual better design. FastAPI, one subscription, an asyncio.Queue and a StreamingResponse per
viewer.

The queue carries text, which Starlette encodes for each viewer, as in most code. No login, no heartbeat.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from serving import Room, serve

room = Room()
app = FastAPI(lifespan=room.lifespan)


async def frames(job: str) -> AsyncIterator[str]:
    async with room.queue(job) as queue:
        yield ": welcome\n\n"
        while True:
            yield f"data: {await queue.get()}\n\n"


@app.get("/sse/{job}")
async def sse(job: str) -> StreamingResponse:
    return StreamingResponse(frames(job), media_type="text/event-stream")


@app.websocket("/ws/{job}")
async def websocket(socket: WebSocket, job: str) -> None:
    await socket.accept()
    async with room.queue(job) as queue:
        while True:
            await socket.send_text(await queue.get())


if __name__ == "__main__":
    serve(app)
