"""A worker, plain and blocking: `python examples/worker_sync.py JOB`. Celery, RQ and cron jobs look like this.

With Celery or RQ make one publisher for the process, when the module is imported: it connects when it is first used, is
safe to share between threads, and a worker that forks afterwards gets connections of its own.

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
    """The task: one line per event. While Redis is away they are logged and counted, and the work goes on."""
    with publisher.lease(job):  # viewers learn of it if this process dies
        publisher.stage_started(job, "code", "Writing the pages")
        time.sleep(1)  # the work
        publisher.stage_completed(job, "code", duration=1.0)
        publisher.emit(job, "tests.counted", {"passed": 41, "failed": 0})  # a type of your own
        publisher.failed(job, "The disk is full")  # or publisher.ready(job)


if __name__ == "__main__":
    with Redis.from_url(REDIS_URL) as redis:  # your application's part: who may watch the job
        redis.hset(f"job:{sys.argv[1]}", mapping={"status": "queued", "user_id": "ada"})
    with SyncPublisher.from_url(REDIS_URL) as shared:
        build(sys.argv[1], shared)
