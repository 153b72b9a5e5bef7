"""Peer: sse-starlette's EventSourceResponse, with one subscription and a queue per viewer. No login."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import FastAPI
from serving import Room, serve
from sse_starlette import EventSourceResponse, ServerSentEvent

room = Room()
app = FastAPI(lifespan=room.lifespan)


async def events(job: str) -> AsyncIterator[ServerSentEvent]:
    async with room.queue(job) as queue:
        yield ServerSentEvent(comment="welcome")
        while True:
            yield ServerSentEvent(data=await queue.get())


@app.get("/sse/{job}")
async def sse(job: str) -> EventSourceResponse:
    return EventSourceResponse(events(job))


if __name__ == "__main__":
    serve(app)
