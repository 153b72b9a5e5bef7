"""The hub in your own application: `python examples/mount.py [PORT]`, then `python examples/worker.py a-job`.

Open http://127.0.0.1:8000/?job=a-job to watch it over SSE, http://127.0.0.1:8000/ws?job=a-job over WebSocket.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from redis.asyncio import Redis
from starlette.requests import HTTPConnection

from hub import User, get_redis, mount, require_auth

SESSIONS = {"a-session": User("ada", "ada@example.com")}  # your application has them in a database
redis = Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Your own startup and shutdown. The hub starts after yours and stops before it."""
    yield
    await redis.aclose()


def signed_in(connection: HTTPConnection) -> User:
    """Your own authentication, for HTTP and WebSocket. A refusal must look like an unknown job."""
    user = SESSIONS.get(connection.cookies.get("session", ""))
    if user is None:
        raise HTTPException(404, "Job not found")
    return user


def page(name: str) -> HTMLResponse:
    """An example page, and a session. `samesite`: no other site can open a WebSocket with its cookie."""
    response = HTMLResponse(Path(__file__).with_name(name).read_text("utf-8"))
    response.set_cookie("session", "a-session", httponly=True, samesite="strict")
    return response


app = FastAPI(title="Somebody else's application", lifespan=lifespan)
mount(app)
app.dependency_overrides |= {require_auth: signed_in, get_redis: lambda: redis}
app.get("/")(lambda: page("sse.html"))
app.get("/ws")(lambda: page("websocket.html"))
app.get("/page")(lambda: page("page.html"))

if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    uvicorn.run(app, port=port)
