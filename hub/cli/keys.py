"""Whose the keys in Redis are, as far as a look at some of them says."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from hub.client.finding import Finding, Level

LOOKED_AT = 2000
"""Keys that are looked at, at least; a large Redis has many more."""

_OURS = "push-hub:"


async def of_keys(client: Any, template: str, statuses: frozenset[str]) -> list[Finding]:
    """What the keys say that are like `template` (`job:{id}`). `statuses` end a job. Raises RedisError."""
    pattern = re.compile(".+".join(map(re.escape, template.split("{id}"))))
    names, is_all = await _some_keys(client)
    ours = sum(name.startswith(_OURS) for name in names)
    theirs = sorted(name for name in names if not name.startswith(_OURS) and pattern.fullmatch(name))
    of = f"{len(names)} keys" if is_all else f"the first {len(names)} keys"
    found = [Finding(Level.OK, f"of {of} {ours} are the hub's, and {len(theirs)} are like {template}")]
    if not theirs:
        found[0] = Finding(
            Level.WARNING if is_all else Level.OK,
            f"none of {of} is like {template}",
            "a job is a hash with that key; without one every viewer gets 404",
            "HUB_KEY_TEMPLATE, the number of the database in HUB_REDIS_URL, or no job was made yet",
        )
    return found + await _of_hashes(client, theirs[:200], statuses)


async def _some_keys(client: Any) -> tuple[list[str], bool]:
    """The names of some keys, and whether these are all."""
    cursor, names = 0, set()
    while True:
        cursor, part = await client.scan(cursor, count=500)
        names |= {name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in part}
        if not cursor or len(names) >= LOOKED_AT:
            return sorted(names), not cursor


async def _of_hashes(client: Any, names: list[str], statuses: frozenset[str]) -> list[Finding]:
    async with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hmget(name, ["status", "user_id"])
        rows = await pipe.execute(raise_on_error=False)
    wrong: dict[str, list[str]] = {"no hash": [], "status": [], "user_id": []}
    ended: Counter[bool] = Counter()
    for name, row in zip(names, rows, strict=True):
        if isinstance(row, Exception):
            wrong["no hash"].append(name)
            continue
        status, user = row
        if not user:
            wrong["user_id"].append(name)
        elif not status:
            wrong["status"].append(name)
        else:
            ended[
                (status.decode("utf-8", "replace") if isinstance(status, bytes) else status) in statuses
            ] += 1
    found = [_wrong(kind, keys) for kind, keys in wrong.items() if keys]
    if ended.total():
        found.append(
            Finding(Level.OK, f"of {ended.total()} jobs {ended[True]} have ended, and {ended[False]} run")
        )
    return found


def _wrong(kind: str, names: list[str]) -> Finding:
    some = ", ".join(names[:3])
    if kind == "no hash":
        return Finding(
            Level.WARNING,
            f"{len(names)} keys like a job's are no hashes: {some}",
            "no viewer can watch them",
            "HUB_KEY_TEMPLATE, if those are no jobs; else HSET",
        )
    why = "nobody owns the job, so every viewer gets 404" if kind == "user_id" else "viewers see no status"
    return Finding(
        Level.WARNING, f"{len(names)} jobs have no {kind}: {some}", why, f"HSET {names[0]} {kind} ..."
    )
