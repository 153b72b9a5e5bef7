"""Peer: the design of tutorials, a Redis Pub/Sub connection per viewer. No login, resume or heartbeat."""

from __future__ import annotations

from collections.abc import AsyncIterator

import redis.asyncio
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from serving import REDIS_URL, serve

app = FastAPI()
# hiredis parses. Connections are not limited, because each viewer holds one. There is no socket timeout,
# because that would cut a silent stream.
client = redis.asyncio.Redis.from_url(REDIS_URL, max_connections=1 << 20, socket_timeout=None)


async def bodies(job: str) -> AsyncIterator[str]:
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(f"job:{job}:events")
        async for message in pubsub.listen():
            yield message["data"].decode()


async def frames(job: str) -> AsyncIterator[str]:
    yield ": welcome\n\n"
    async for body in bodies(job):
        yield f"data: {body}\n\n"


@app.get("/sse/{job}")
async def sse(job: str) -> StreamingResponse:
    return StreamingResponse(frames(job), media_type="text/event-stream")


@app.websocket("/ws/{job}")
async def websocket(socket: WebSocket, job: str) -> None:
    await socket.accept()
    async for body in bodies(job):
        await socket.send_text(body)


if __name__ == "__main__":
    serve(app)
