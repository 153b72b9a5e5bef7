"""What one Redis is asked for, command by command: a change to it must be meant.

The file beside this one has the commands of a job's life, with ids, times and digests replaced. It was
written before the hub knew clusters, and says that they cost a single Redis nothing. To write it anew:
`PUSH_HUB_GOLDEN=1 python -m pytest tests/live/test_commands.py`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from redis.asyncio import Redis

from hub import JobStateMachine, Publisher
from hub.demo.embedded import EmbeddedServer
from tests.support.live import USER, live_hub

GOLDEN = Path(__file__).with_name("commands.txt")

HANDSHAKE = ("HELLO", "CLIENT", "AUTH", "SELECT", "ECHO", "SCRIPT")


def plain(command: str) -> str | None:
    """The command without what differs in each run; None for what belongs to no job."""
    verb, _, rest = command.partition(" ")
    if verb.upper() in HANDSHAKE or "push-hub:revoked" in command:  # that is read sooner or later
        return None
    if verb.upper() == "EVALSHA":  # its arguments are the script's own business
        keys = rest.split(" ")[2 : 2 + int(rest.split(" ")[1])]
        command = " ".join([verb, *keys])
    return re.sub(r"\d{4,}(?:\.\d+)?", "N", re.sub(r"[0-9a-f]{32,40}", "H", command))


async def test_a_jobs_life_is_the_commands_that_it_was():
    """Made, published to, watched on both transports, ended."""
    with EmbeddedServer() as server:
        async with Redis.from_url(server.url) as client, Redis.from_url(server.url) as watching:
            steps: list[str] = []
            async with (
                watching.monitor() as monitor,
                live_hub(client, redis_url=server.url, presence=False, my_jobs=False) as live,
            ):

                async def done(step: str) -> None:
                    await client.echo("done")
                    steps.append(f"# {step}")
                    while not (seen := (await monitor.next_command())["command"]).startswith("ECHO"):
                        steps.extend(filter(None, [plain(seen)]))

                await done("the hub starts")
                await JobStateMachine(client).create_job("a", user_id=USER)
                await done("a job is made")
                publisher = Publisher(client, strict=True)
                await publisher.emit("a", "step", {"n": 1}, once="k")
                await publisher.emit("a", "step", {"n": 1}, once="k")
                await done("an event is published, and again")
                async with live.sse("a", "?from=start") as viewer:
                    await viewer.next()
                    await done("the first viewer comes")
                    async with live.websocket("a", "?from=start") as other:
                        await other.recv()
                        await done("another one comes")
                    await publisher.ready("a")
                    await viewer.all()
                await done("the job ends")
                async with live.sse("a") as late:
                    await late.all()
                await done("somebody comes late")
    found = "\n".join(steps) + "\n"
    if os.environ.get("PUSH_HUB_GOLDEN"):
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text()
