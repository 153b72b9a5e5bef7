"""What is wrong with the settings, the process and the Redis, as far as anybody can say without a viewer."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from hub.client.finding import Finding, Level
from hub.settings import Settings

IDLE = 60
"""Seconds after which an ALB, and nginx as it is delivered, close a connection that is silent."""

OTHERS = frozenset({"HUB_TOKEN"})
"""Variables of the command line that are no settings."""

OLDEST = (7, 0)
"""The oldest Redis: the publish script needs `XADD <epoch>-*`."""

SLOW = 0.01
"""Seconds that a round trip to Redis should not take."""

SKEW = 5.0
"""Seconds that the clocks of Redis and of this machine may differ."""


def of_settings(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """What the settings will do to their operator."""
    yield from _of_names(environment)
    if settings.heartbeat > IDLE - 5:
        yield Finding(
            Level.WARNING,
            f"heartbeats come every {settings.heartbeat:g} s",
            f"an ALB or nginx closes a connection that is silent for {IDLE} s",
            "HUB_HEARTBEAT=15",
        )
    for origin in sorted(settings.allowed_origins):
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            better = f"https://{parts.netloc or parts.path.strip('/')}"
            yield Finding(
                Level.ERROR,
                f"HUB_ALLOWED_ORIGINS has {origin!r}",
                "a browser sends scheme, host and port, and nothing else, so this matches no page",
                f"HUB_ALLOWED_ORIGINS={better}",
            )
    if not settings.authenticates:
        yield Finding(
            Level.ERROR,
            "no key verifies tokens",
            "`push-hub serve` does not start without one",
            "HUB_JWKS_URL, HUB_JWT_PUBLIC_KEY or HUB_JWT_SECRET",
        )
    if settings.admin_port and settings.admin_token is None and not _is_loopback(settings.admin_host):
        yield Finding(
            Level.WARNING,
            f"the admin port is open on {settings.admin_host}",
            "whoever reaches it may revoke, drain, and read the metrics",
            "HUB_ADMIN_HOST=127.0.0.1, or a HUB_ADMIN_TOKEN",
        )


def _of_names(environment: Mapping[str, str]) -> Iterator[Finding]:
    known = {f"HUB_{name.upper()}" for name in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known} | OTHERS
    for name in sorted(environment):
        if name.startswith("HUB_") and name not in known:
            near = get_close_matches(name, known, 1, 0.75)
            yield Finding(
                Level.WARNING,
                f"{name} is no setting",
                "it has no effect",
                f"{near[0]}?" if near else "`push-hub settings` lists them",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def of_process(settings: Settings) -> Iterator[Finding]:
    """What this machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < settings.max_viewers:
        yield Finding(
            Level.WARNING,
            f"{hard} files may be open",
            f"a viewer is a file, and HUB_MAX_VIEWERS is {settings.max_viewers}: the hub takes fewer",
            "LimitNOFILE= of systemd, `ulimits` of compose, or a lower HUB_MAX_VIEWERS",
        )
    else:
        yield Finding(Level.OK, "enough files may be open")


async def of_redis(client: Any) -> list[Finding]:
    """What a Redis, or a Valkey, says of itself. Raises what redis-py raises if it does not answer."""
    took, info = [], await client.info("server")
    for _ in range(10):
        began = time.perf_counter()
        seconds, micros = await client.time()
        took.append(time.perf_counter() - began)
    skew = abs(seconds + micros / 1e6 - time.time())
    found = [_of_version(info), _of_latency(median(took)), _of_clock(skew)]
    found += _of_memory(await client.info("memory"))
    return found


def _of_version(info: Mapping[str, Any]) -> Finding:
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers >= OLDEST:
        return Finding(Level.OK, f"{name} {version}")
    return Finding(
        Level.ERROR, f"{name} {version}", "the publish script needs Redis 7.0 or later", "a newer Redis"
    )


def _of_latency(seconds: float) -> Finding:
    words = f"a round trip to Redis takes {seconds * 1000:.1f} ms"
    if seconds < SLOW:
        return Finding(Level.OK, words)
    return Finding(
        Level.WARNING,
        words,
        "each join and each publish waits for it",
        "a Redis in the same zone; SLOWLOG GET",
    )


def _of_clock(skew: float) -> Finding:
    words = f"the clocks of Redis and of this machine differ by {skew:.1f} s"
    if skew < SKEW:
        return Finding(Level.OK, words)
    return Finding(
        Level.WARNING,
        words,
        "leases are by Redis's clock, tokens and revocations by this one",
        "run NTP on both",
    )


def _of_memory(info: Mapping[str, Any]) -> list[Finding]:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if not info.get("maxmemory") or policy == "noeviction":
        return [Finding(Level.OK, "Redis evicts nothing")]
    return [
        Finding(
            Level.WARNING,
            f"Redis evicts keys when it is full ({policy})",
            "a log that is evicted is gone: its viewers get `resync`, or `end` for a deleted job",
            "CONFIG SET maxmemory-policy noeviction",
        )
    ]
