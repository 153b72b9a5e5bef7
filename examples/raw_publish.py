"""A producer without push-hub: `python examples/raw_publish.py JOB`. It uses redis-py; any language will do.

The contract is a hash and a channel. Nothing retains these events, so they are live only. A viewer that comes
later gets the job's status and its end, which are in the hash.
"""

import json
import os
import sys
import time

from redis import Redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")


def main(job: str) -> None:
    """One HSET creates the job; each event is one HSET and one PUBLISH."""
    with Redis.from_url(REDIS_URL) as redis:
        redis.hset(f"job:{job}", mapping={"status": "queued", "user_id": "ada", "project_id": "example"})
        for status in ("scaffold", "code", "checks", "ready"):  # "ready" and "failed" end the job
            time.sleep(1)  # the work
            redis.hset(f"job:{job}", "status", status)
            event = {"type": "build.stage.started", "stage": status, "status": status, "job_id": job}
            heard = redis.publish(f"job:{job}:events", json.dumps(event))
            print(f"{status}: heard by {heard}")  # the number of hub processes, not of viewers


if __name__ == "__main__":
    main(sys.argv[1])
