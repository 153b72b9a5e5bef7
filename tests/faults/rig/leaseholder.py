"""A worker process that holds a job's lease until SIGTERM (it gives the lease back) or a kill.

python -m tests.faults.rig.leaseholder REDIS_URL JOB TTL
"""

from __future__ import annotations

import asyncio
import signal
import sys

from hub import Publisher


async def main(url: str, job: str, ttl: float) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with Publisher.from_url(url, strict=True) as publisher, publisher.lease(job, ttl=ttl):
        await over.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
