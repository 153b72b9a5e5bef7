"""An async worker: `python examples/worker.py JOB`. Its events go to every viewer of JOB.

REDIS_URL says where Redis is; the default is this machine. The job belongs to the user "ada", whom mount.py
signs in.
"""

import asyncio
import os
import sys

from hub import JobStateMachine, Publisher

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")


async def main(job: str) -> None:
    """Create the job, as your application does when a user asks for one, and work on it."""
    async with JobStateMachine.from_url(REDIS_URL) as jobs:
        await jobs.create_job(job, user_id="ada", title="An example")

    # If this process dies, the lease lapses, and viewers get one `failed` event half a minute later.
    async with Publisher.from_url(REDIS_URL) as publisher, publisher.lease(job):
        for stage in ("scaffold", "code", "deps", "checks"):
            await publisher.stage_started(job, stage, f"Working on {stage}")
            await asyncio.sleep(1)  # the work
            await publisher.stage_completed(job, stage, duration=1.0)
        await publisher.snapshot_updated(job, "https://example.com/picture.png")
        await publisher.documentation_updated(job, "Overview", "What was built, and why.")
        print(await publisher.ready(job, "It is all there"))  # the last event's id: nothing can follow it


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
