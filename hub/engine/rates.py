"""How often a user may do something: so many times at once, and so many per second in the long run."""

from __future__ import annotations

import asyncio

MOST_DEBT = 60.0
"""Seconds that a user who goes on all the same is at most told to wait."""

SWEEP = 10_000
"""Users after which those are forgotten that have all of their budget again."""


class Rate:
    """The budget of each user. The generic cell rate algorithm (ITU-T I.371): one number per user."""

    def __init__(self, burst: int, rate: float) -> None:
        self._interval = 1 / rate
        self._burst = burst / rate
        self._due: dict[str, float] = {}  # loop time at which the budget is full again
        self._sweep = SWEEP

    def spend(self, user: str) -> float:
        """Count one more. Returns the seconds after which it would have
        been within the budget; 0 if it is.
        """
        now = asyncio.get_running_loop().time()
        if len(self._due) >= self._sweep:
            self._due = {one: due for one, due in self._due.items() if due > now}
            self._sweep = max(SWEEP, 2 * len(self._due))
        due = max(self._due.get(user, 0.0), now) + self._interval
        over = max(0.0, due - now - self._burst - 1e-6)
        self._due[user] = min(due, now + self._burst + MOST_DEBT)
        return over
