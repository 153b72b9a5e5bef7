"""The hub under test: one that is started with a private Redis, or one that runs already.

Invariant: every process started here has ended when its context manager exits, also after an exception.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt

from hub.bench.process import Cores, on_core
from hub.bench.result import Load
from hub.bench.server import running
from hub.bench.source import Source, redis_source
from hub.bench.target import Target, Transport
from hub.broker.connect import OUTAGE, single_sync
from hub.broker.keys import Keys
from hub.demo.embedded import EmbeddedServer
from hub.errors import BrokerUnavailable, InvalidSettings
from hub.job.event import JobId
from hub.settings import Settings

USER = "bench"

LIFETIME = 3600
"""Seconds until a benchmark's jobs and tokens expire, so that they do not stay. No benchmark takes longer."""

_PATHS = {Transport.SSE: "/api/jobs/{}/events/stream", Transport.WEBSOCKET: "/api/jobs/{}/events/ws"}


@dataclass(frozen=True, slots=True)
class Rig:
    """A hub to measure, and the producer for its jobs."""

    target: Target
    source: Source


@contextmanager
def private_hub(
    load: Load,
    transport: Transport,
    cores: Cores,
    *,
    bare: bool = False,
    program: Sequence[str] = ("-m", "hub"),
) -> Iterator[Rig]:
    """Start a hub with a private Redis; the hub has a core to itself. `bare`: the producer only does PUBLISH.

    `program`: the arguments that make Python run a hub; those of `push-hub serve` follow. Raises HubError.
    """
    secret = secrets.token_hex(32)
    with on_core(cores.client):
        redis = EmbeddedServer()
    with redis:
        where = ["--host", "127.0.0.1", "--port", "{port}", "--redis-url", redis.url]
        with on_core(cores.server):
            hub = running([sys.executable, *program, "serve", *where], _environment(secret, load.viewers))
        with hub as (pid, port):
            epoch = int(time.time() * 1000)
            prefix = _create_jobs(redis.url, load, USER, Keys(), epoch=None if bare else epoch)
            cursor = f"Last-Event-ID: {epoch}-0\r\n" if load.behind else ""

            def head(index: int) -> tuple[str, str]:
                # A token for each viewer: with one for all, the hub would verify it once and remember it.
                path = _PATHS[transport].format(f"{prefix}-{index % load.jobs}")
                return path, f"Authorization: Bearer {_token(secret, index)}\r\n{cursor}"

            target = Target("127.0.0.1", port, transport, head, pids=(pid,))
            yield Rig(target, _source(redis.url, prefix, load, Keys().template, bare=bare))


def _environment(secret: str, viewers: int) -> dict[str, str]:
    enough = str(viewers + 1000)
    return {
        "HUB_JWT_SECRET": secret,
        "HUB_MAX_VIEWERS_PER_USER": enough,  # one user has all viewers
        "HUB_MAX_VIEWERS_PER_USER_AND_JOB": enough,
        "HUB_MAX_VIEWERS_PER_JOB": enough,
        "HUB_MAX_VIEWERS": str(max(50_000, viewers + 1000)),
        "HUB_LOG_LEVEL": "warning",  # at info each join would also cost a line of the access log
        "HUB_DRAIN": "0",
    }


@contextmanager
def running_hub(
    load: Load,
    transport: Transport,
    *,
    url: str,
    token: str,
    redis_url: str | None,
    pid: int | None,
    bare: bool,
) -> Iterator[Rig]:
    """Use the hub at `url`, and its Redis. All viewers are the token's user, whose caps must allow them."""
    place = urlsplit(url)
    if place.scheme != "http" or place.hostname is None:
        raise InvalidSettings(
            f"expected a URL like http://127.0.0.1:8000 (without TLS, which is not measured), got {url!r}"
        )
    given: dict[str, Any] = {} if redis_url is None else {"redis_url": redis_url}
    settings = Settings(**given)
    keys = Keys(settings.key_template)
    epoch = None if bare else int(time.time() * 1000)
    prefix = _create_jobs(settings.redis_url, load, _subject(token), keys, epoch=epoch)

    def head(index: int) -> tuple[str, str]:
        path = _PATHS[transport].format(f"{prefix}-{index % load.jobs}")
        return place.path.rstrip("/") + path, f"Authorization: Bearer {token}\r\n"

    target = Target(place.hostname, place.port or 80, transport, head, pids=() if pid is None else (pid,))
    yield Rig(target, _source(settings.redis_url, prefix, load, keys.template, bare=bare))


def _create_jobs(redis_url: str, load: Load, user: str, keys: Keys, *, epoch: int | None) -> str:
    """Create the jobs' hashes; returns the prefix of their ids. With an `epoch` they are as `create_job`
    makes them, without as an application does."""
    prefix = f"bench-{secrets.token_hex(4)}"
    fields: dict[Any, Any] = {"status": "queued", "user_id": user, "project_id": "bench"}
    with single_sync(redis_url) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(load.jobs):
            key = keys.job(JobId(f"{prefix}-{number}"))
            pipeline.hset(key, mapping=fields)
            pipeline.expire(key, LIFETIME)
            if epoch is not None:
                meta = keys.meta(JobId(f"{prefix}-{number}"))
                pipeline.hset(meta, mapping={"epoch": epoch, "owner": user})
                pipeline.expire(meta, LIFETIME)
        try:
            pipeline.execute()
        except OUTAGE as error:
            raise BrokerUnavailable(
                f"expected Redis at {redis_url.rpartition('@')[2]}, got {error}"
            ) from error
    return prefix


def _source(redis_url: str, prefix: str, load: Load, template: str, *, bare: bool) -> Source:
    return redis_source(
        redis_url, prefix=prefix, jobs=load.jobs, size=load.size, template=template, bare=bare
    )


def _token(secret: str, index: int) -> str:
    return jwt.encode({"sub": USER, "exp": int(time.time()) + LIFETIME, "jti": str(index)}, secret, "HS256")


def _subject(token: str) -> str:
    """Returns the user of `token`, unverified: the hub will verify it."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False})["sub"])
    except (jwt.PyJWTError, KeyError) as error:
        raise InvalidSettings(f"expected a token with a subject, got {error}") from error
