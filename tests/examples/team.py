"""An application of somebody's own, for the servers of tests/examples/test_servers.py."""

import os
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException
from redis.asyncio import Redis

from hub import User, get_redis, mount, require_auth

redis = Redis.from_url(os.environ["REDIS_URL"])


def signed_in(x_user: Annotated[str, Header()] = "") -> User:
    """The user of a header, as behind a gateway."""
    if not x_user:
        raise HTTPException(404, "Job not found")
    return User(x_user)


app = FastAPI()
mount(app, path="/push")
app.dependency_overrides |= {require_auth: signed_in, get_redis: lambda: redis}


@app.get("/mine")
async def mine() -> dict[str, bool]:
    """The application's own endpoint."""
    return {"mine": True}
