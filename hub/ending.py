"""Ends tasks."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN = 0.5
"""Seconds until a task that still runs is cancelled again."""


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks`, and return when all have ended. What they raised is nobody's business any more.

    Once is not enough: on Python 3.11 `asyncio.wait_for` swallows a cancellation that comes in the same turn of the loop as what it
    waits for (CPython issue 86296), and redis-py sends each command through it. A feed that missed it would wait for ever.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # or asyncio complains that nobody asked
