"""The hub in your own application: `python examples/mount.py [PORT]`, then `python examples/worker.py a-job`.

Open http://127.0.0.1:8000/?job=a-job to watch it over SSE, http://127.0.0.1:8000/ws?job=a-job over WebSocket.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
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
app.get("/htmx")(lambda: page("htmx.html"))


@app.get("/builds/{job}")
async def build(job: str, user: Annotated[User, Depends(signed_in)]) -> HTMLResponse:
    """The HTML of a job as it is now; htmx.html asks for it when hub.js says that something has changed."""
    owner, status = await redis.hmget(f"job:{job}", "user_id", "status")
    if owner is None or owner.decode() != user.user_id:
        raise HTTPException(404, "Job not found")
    return HTMLResponse(f"<h1>{escape(job)}: {escape(status.decode())}</h1>")


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    uvicorn.run(app, port=port)
