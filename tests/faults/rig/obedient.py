"""A worker in a process of its own that does every command: python obedient.py REDIS_URL JOB [blocking]"""

from __future__ import annotations

import asyncio
import sys

from hub import Publisher, SyncPublisher


async def obey(url: str, job: str) -> None:
    async with Publisher.from_url(url) as publisher:
        async for command in publisher.commands(job):
            await command.done(n=command.args["n"], job=command.args["job"])


def obey_blocking(url: str, job: str) -> None:
    with SyncPublisher.from_url(url) as publisher:
        while True:
            if (command := publisher.next_command(job, timeout=1)) is not None:
                command.done(n=command.args["n"], job=command.args["job"])


if __name__ == "__main__":
    if len(sys.argv) > 3:
        obey_blocking(*sys.argv[1:3])
    else:
        asyncio.run(obey(*sys.argv[1:3]))
