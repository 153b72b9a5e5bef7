"""Ends asyncio tasks for certain, which on Python 3.11 takes more than one `cancel`."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN = 0.5
"""Seconds before a task that still runs is cancelled again."""


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` and return when all have ended. Their results and exceptions are dropped.

    A task that still runs is cancelled again. One `cancel` is not enough: on Python 3.11 `asyncio.wait_for`
    swallows a cancellation that arrives in the same turn of the loop as the result it waits for (CPython
    issue 86296), and redis-py sends every command through `wait_for`. A feed whose cancellation was swallowed
    would wait for ever.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio logs that it never was
