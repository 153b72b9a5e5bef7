"""A blocking worker: `python examples/worker_sync.py JOB`. Tasks of Celery, RQ and cron look like this.

With Celery or RQ make one publisher per process, when the module is imported. It connects when it is first
used, threads may share it, and a worker that is forked later opens connections of its own.

    publisher = SyncPublisher.from_url(REDIS_URL)

    @app.task                       # Celery; with RQ the plain function is enough: queue.enqueue(build, job)
    def build(job):
        publisher.stage_started(job, "code", "Writing the pages")
"""

import os
import sys
import time

from redis import Redis

from hub import SyncPublisher

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")


def build(job: str, publisher: SyncPublisher) -> None:
    """The task: one line per event. While Redis is away, failures are logged, and the work goes on."""
    with publisher.lease(job):  # if this process dies, viewers are told that the job failed
        publisher.stage_started(job, "code", "Writing the pages")
        time.sleep(1)  # the work
        publisher.stage_completed(job, "code", duration=1.0)
        publisher.emit(job, "tests.counted", {"passed": 41, "failed": 0})  # your own event type
        publisher.failed(job, "The disk is full")  # or publisher.ready(job)


if __name__ == "__main__":
    with Redis.from_url(REDIS_URL) as redis:  # your application does this: it says who may watch the job
        redis.hset(f"job:{sys.argv[1]}", mapping={"status": "queued", "user_id": "ada"})
    with SyncPublisher.from_url(REDIS_URL) as shared:
        build(sys.argv[1], shared)
