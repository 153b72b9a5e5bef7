"""What one message, delivery, viewer and job cost, and how they are measured on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from hub.bench.result import Load, Result
from hub.errors import InvalidSettings

VIEWERS = 2_000
"""Viewers of the measurements: so many that what a process has anyway does not count."""


@dataclass(frozen=True, slots=True)
class Units:
    """CPU in microseconds, memory in bytes. The values are those of one core of a cloud machine of 2026."""

    message: float = 53.0  # of a hub, for an event of a job that it watches
    delivery: float = 9.8  # of a hub, for each viewer that the event goes to
    join: float = 230.0  # of a hub, for a viewer of a job that it watches already
    viewer: float = 1_500.0  # in a hub
    job: float = 8_900.0  # watched, in a hub
    connection: float = 4_400.0  # an idle one, in the kernel
    publish: float = 18.0  # of Redis, for the script
    announce: float = 0.7  # of Redis, for each process that watches the job

    @classmethod
    def read(cls, path: Path) -> Units:
        """What `push-hub bench --units` has printed. Raises InvalidSettings."""
        known = {field.name for field in fields(cls)}
        try:
            found = json.loads(path.read_text())
            values = {name: float(value) for name, value in found.items() if name in known}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InvalidSettings(f"expected the output of push-hub bench --units, got {error}") from error
        if not values or min(values.values()) < 0:
            raise InvalidSettings("expected costs that are not negative, got something else")
        return cls(**values)

    def text(self) -> str:
        """One JSON object."""
        return json.dumps({name: round(value, 2) for name, value in asdict(self).items()}, indent=1)


def measure_units(measure: Callable[[Load], Result]) -> Units:
    """`measure` a private hub: many viewers of one job, then one viewer each of many jobs.

    The costs of Redis and of the kernel stay as they are in `Units`: they are not the hub's.
    """
    shared = measure(Load(viewers=VIEWERS, jobs=1, rate=10))
    single = measure(Load(viewers=VIEWERS, jobs=VIEWERS, rate=2000))
    return units_of(shared, single)


def units_of(shared: Result, single: Result) -> Units:
    """From a run with all viewers on one job, and one with a job for each. Raises InvalidSettings if the
    machine does not show what was asked for.
    """
    figures = [shared.cpu_per_delivery, single.cpu_per_delivery, shared.cpu_per_join]
    figures += [shared.uss_per_viewer, single.uss_per_viewer]
    if None in figures:
        raise InvalidSettings("expected a machine that tells CPU and memory of a process, got another")
    together, alone, join, viewer, with_job = (float(figure or 0) for figure in figures)
    # A delivery of the first run carries 1/VIEWERS of the cost of its message, one of the second all of it.
    message = max(0.0, (alone - together) * VIEWERS / (VIEWERS - 1))
    return replace(
        Units(),
        message=message * 1e6,
        delivery=max(0.0, alone - message) * 1e6,
        join=join * 1e6,
        viewer=max(0.0, viewer),
        job=max(0.0, with_job - viewer),
    )
