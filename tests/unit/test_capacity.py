"""`push-hub capacity`: the arithmetic by hand, and what the documentation shows."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hub.bench.arithmetic import REDIS_MEMORY, Load, plan
from hub.bench.units import VIEWERS, Units, units_of
from hub.cli import app
from hub.errors import InvalidSettings

SCALING = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
UNITS = Units(
    message=50, delivery=10, join=200, viewer=2000, job=9000, connection=4000, publish=20, announce=1
)


def test_a_load_that_one_process_could_serve_gets_two():
    """A machine may fail."""
    found = plan(Load(viewers=1000, jobs=10, rate=1, size=100, kept=100), UNITS)
    assert (found.processes, found.shards, found.is_cluster) == (2, 1, False)
    assert found.watching == pytest.approx(2)
    # 10 jobs x 1/s x 2 processes x 50 us + 1000 viewers x 1/s x 10 us
    assert found.hub_cores == pytest.approx(0.011)
    # 10 events/s x (20 us + 2 x 1 us)
    assert found.redis_cores == pytest.approx(0.00022)
    assert found.hub_memory == pytest.approx(1000 * 2000 + 10 * 2 * 9000)
    assert found.kernel_memory == 4_000_000
    assert found.redis_memory == 10 * 100 * 160
    assert found.network == 100_000
    assert found.joins == 25


def test_the_cpu_of_the_hubs_decides_where_events_are_many():
    found = plan(Load(viewers=10_000, jobs=100, rate=20, routed=True), UNITS)
    # 200,000 deliveries/s x 10 us + 2,000 messages/s x 50 us: 2.1 cores, each half busy
    assert (found.processes, found.first) == (5, "the CPU of the hubs")
    assert found.watching == 1


def test_more_processes_spread_jobs_over_more_of_them():
    """That is counted, too: the processes suffice for the messages that they cause."""
    load = Load(viewers=100_000, jobs=20_000, rate=1)
    found = plan(load, UNITS)
    assert found.hub_cores <= found.processes * 0.5
    assert found.hub_cores > plan(replace(load, routed=True), UNITS).hub_cores * 2


@pytest.mark.parametrize(
    ("load", "first"),
    [
        (Load(viewers=10**6, jobs=10, rate=0.001), "viewers per process"),
        (Load(viewers=100, jobs=10**7, rate=0.1, kept=1), "the CPU of Redis"),
        (Load(viewers=100, jobs=10**7, rate=0.0001, kept=1000), "the memory of Redis"),
        (Load(viewers=10_000, jobs=10, rate=1, size=10**6), "the network"),
    ],
)
def test_what_breaks_first_is_named(load, first):
    assert plan(load, UNITS).first == first


def test_a_cluster_has_three_primaries_or_more():
    kept = int(REDIS_MEMORY / 100 / 360) + 1
    assert plan(Load(viewers=100, jobs=100, rate=0, kept=kept), UNITS).shards == 3


@pytest.mark.parametrize("wrong", [{"viewers": 0}, {"jobs": 0}, {"rate": -1.0}, {"size": 0}, {"kept": -1}])
def test_a_load_that_is_none_is_refused(wrong):
    with pytest.raises(InvalidSettings):
        Load(**{"viewers": 1, "jobs": 1, "rate": 1.0} | wrong)


def test_units_follow_from_two_measurements():
    """Many viewers on one job, and on a job each: 10 us a delivery and 50 us a message are found again."""
    shared = Measured(delivery=(10 + 50 / VIEWERS) / 1e6, viewer=2000.0)
    single = Measured(delivery=(10 + 50) / 1e6, viewer=11_000.0)
    found = units_of(shared, single)
    assert found.message == pytest.approx(50)
    assert found.delivery == pytest.approx(10)
    assert (found.viewer, found.job, found.join) == (2000, 9000, pytest.approx(300))


def test_a_machine_that_tells_nothing_gives_no_units():
    with pytest.raises(InvalidSettings):
        units_of(Measured(delivery=None, viewer=None), Measured(delivery=None, viewer=None))


def test_measured_units_are_read_again(tmp_path):
    path = tmp_path / "units.json"
    path.write_text(UNITS.text())
    assert Units.read(path) == UNITS


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"message":-1}', '{"message":"x"}', "null"])
def test_units_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "units.json"
    path.write_text(text)
    with pytest.raises(InvalidSettings):
        Units.read(path)


SHOWN = re.findall(r"\$ (push-hub capacity .+)\n((?:.+\n)+?)```", SCALING)


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=["spread", "routed"])
def test_the_documentation_shows_what_the_program_says(command, output):
    answer = CliRunner().invoke(app, shlex.split(command)[1:])
    assert answer.exit_code == 0
    assert answer.output == output


class Measured:
    """A measurement with these figures."""

    def __init__(self, *, delivery: float | None, viewer: float | None) -> None:
        self.cpu_per_delivery = delivery
        self.cpu_per_join = 300e-6
        self.uss_per_viewer = viewer
