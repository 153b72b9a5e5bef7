"""Runs of the model in as many processes as there are cores: a test waits for its own, and the others go on meanwhile."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Generic, TypeVar

R = TypeVar("R")


@functools.cache
def _pool() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))
    atexit.register(pool.shutdown, wait=False, cancel_futures=True)
    return pool


class Ahead(Generic[R]):
    """`function` of each of `names`. The name that is asked for first is run first, then all others."""

    def __init__(self, function: Callable[[str], R], names: Iterable[str]) -> None:
        self._function = function
        self._names = list(names)
        self._runs: dict[str, Future[R]] = {}

    def __call__(self, name: str) -> R:
        for one in [name, *self._names]:
            if one not in self._runs:
                self._runs[one] = _pool().submit(self._function, one)
        return self._runs[name].result()
