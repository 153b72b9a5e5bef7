"""The hub under test: one of our own with a private Redis, or one that runs already.

Invariant: what this starts ends with it, whatever happens in between.
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
from hub.broker.connect import OUTAGE, for_publishing_sync
from hub.broker.keys import Keys
from hub.demo.embedded import EmbeddedServer
from hub.errors import BrokerUnavailable, InvalidSettings
from hub.job.event import JobId
from hub.settings import Settings

USER = "bench"

LIFETIME = 3600
"""Seconds a benchmark's job and tokens live: no benchmark takes an hour, and nothing is left behind for ever."""

_PATHS = {Transport.SSE: "/api/jobs/{}/events/stream", Transport.WEBSOCKET: "/api/jobs/{}/events/ws"}


@dataclass(frozen=True, slots=True)
class Rig:
    """A hub, and the producer for its jobs."""

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
    """A hub with a Redis of its own, alone on its core. `bare` producers know nothing but PUBLISH.

    `program`: what Python runs, with the arguments of `push-hub serve`.
    """
    secret = secrets.token_hex(32)
    with on_core(cores.client):
        redis = EmbeddedServer()
    with redis:
        environment = {
            "HUB_JWT_SECRET": secret,
            "HUB_MAX_VIEWERS_PER_USER": str(load.viewers + 1000),  # all are one user's
            "HUB_MAX_VIEWERS_PER_USER_AND_JOB": str(load.viewers + 1000),
            "HUB_MAX_VIEWERS_PER_JOB": str(load.viewers + 1000),
            "HUB_MAX_VIEWERS": str(max(50_000, load.viewers + 1000)),
            "HUB_LOG_LEVEL": "warning",  # an access log line per join would be measured along
            "HUB_DRAIN": "0",
        }
        with on_core(cores.server):
            hub = running(
                [
                    sys.executable,
                    *program,
                    "serve",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    "{port}",
                    "--redis-url",
                    redis.url,
                ],
                environment,
            )
        with hub as (pid, port):
            prefix = _create_jobs(redis.url, load, USER, Keys(), numbered=not bare)

            def head(index: int) -> tuple[str, str]:
                # a token each: a hub that remembers tokens it has verified shall not win by our laziness
                token = _token(secret, index)
                return _PATHS[transport].format(
                    f"{prefix}-{index % load.jobs}"
                ), f"Authorization: Bearer {token}\r\n"

            target = Target("127.0.0.1", port, transport, head, pids=(pid,))
            yield Rig(target, _source(redis.url, prefix, load, Keys().template, bare=bare))


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
    """A hub at `url`, whose Redis we can reach too. All viewers are the token's user, so its limits must allow them."""
    place = urlsplit(url)
    if place.scheme != "http" or place.hostname is None:
        raise InvalidSettings(
            f"expected a URL like http://127.0.0.1:8000 (TLS is not ours to measure), got {url!r}"
        )
    given: dict[str, Any] = {} if redis_url is None else {"redis_url": redis_url}
    settings = Settings(**given)
    keys = Keys(settings.key_template)
    prefix = _create_jobs(settings.redis_url, load, _subject(token), keys, numbered=not bare)

    def head(index: int) -> tuple[str, str]:
        path = _PATHS[transport].format(f"{prefix}-{index % load.jobs}")
        return place.path.rstrip("/") + path, f"Authorization: Bearer {token}\r\n"

    target = Target(place.hostname, place.port or 80, transport, head, pids=() if pid is None else (pid,))
    yield Rig(target, _source(settings.redis_url, prefix, load, keys.template, bare=bare))


def _create_jobs(redis_url: str, load: Load, user: str, keys: Keys, *, numbered: bool) -> str:
    """Make the jobs' hashes; gives the prefix of their ids. Only a `numbered` job has an epoch, and with it a log."""
    prefix = f"bench-{secrets.token_hex(4)}"
    fields: dict[Any, Any] = {"status": "queued", "user_id": user, "project_id": "bench"}
    if numbered:
        fields["epoch"] = str(int(time.time() * 1000))
    with for_publishing_sync(redis_url) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(load.jobs):
            key = keys.job(JobId(f"{prefix}-{number}"))
            pipeline.hset(key, mapping=fields)
            pipeline.expire(key, LIFETIME)
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
    """Whose token it is; that it is good, the hub will say."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False})["sub"])
    except (jwt.PyJWTError, KeyError) as error:
        raise InvalidSettings(f"expected a token with a subject, got {error}") from error
