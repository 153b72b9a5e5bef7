"""A producer that knows nothing of push-hub: `python examples/raw_publish.py JOB`. Bare redis-py, any language will do.

The contract is a hash and a channel. Such events are live only: nobody retains them, so who comes later does not see
them, but the hash says how the job stands, and how it ended.
"""

import json
import os
import sys
import time

from redis import Redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")


def main(job: str) -> None:
    """One HSET to begin with, and one HSET and one PUBLISH for each event."""
    with Redis.from_url(REDIS_URL) as redis:
        redis.hset(f"job:{job}", mapping={"status": "queued", "user_id": "ada", "project_id": "example"})
        for status in ("scaffold", "code", "checks", "ready"):  # "ready" and "failed" end the job
            time.sleep(1)  # the work
            redis.hset(f"job:{job}", "status", status)
            event = {"type": "build.stage.started", "stage": status, "status": status, "job_id": job}
            heard = redis.publish(f"job:{job}:events", json.dumps(event))
            print(f"{status}: heard by {heard}")  # hub processes, however many viewers each of them has


if __name__ == "__main__":
    main(sys.argv[1])
