"""Is this slower than that? `python -m tests.bench.guard COMMIT` measures the checkout and a commit in interleaved
rounds, and fails if a figure of the checkout is more than 5 % over the commit's.

A figure is worse if its best is, for what else the machine does can only add, and if the median of the rounds'
ratios is, for a round is one run of each side by side in time. More rounds must confirm it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
LIMIT = 1.05


@dataclass(frozen=True)
class Load:
    """Options of `push-hub bench`, and the figures of its result that are compared, with their units."""

    name: str
    options: str
    figures: dict[str, tuple[str, float]]


DELIVERY = {"cpu_per_delivery": ("us per delivery", 1e6)}
LOADS = [
    Load("500 viewers", "--viewers 500 --rate 20 --duration 4", DELIVERY),
    Load("5,000 viewers", "--viewers 5000 --rate 5 --duration 4", DELIVERY),
    Load("500 viewers, fast", "--viewers 500 --rate 2000 --duration 3", DELIVERY),
    Load("1,000 jobs", "--viewers 2000 --jobs 1000 --rate 2000 --duration 5", DELIVERY),
    Load(
        "idle",
        "--viewers 4000 --rate 0",
        {"uss_per_viewer": ("bytes per viewer", 1), "cpu_per_join": ("us per join", 1e6)},
    ),
]


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The files of a commit, in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="push-hub-guard-") as place:
        archive = subprocess.run(
            ["git", "archive", "--format=tar", commit], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
        yield Path(place)


def measure(place: Path, load: Load, transport: str) -> dict[str, float]:
    """One run of the hub in `place`, with the packages of this environment."""
    done = subprocess.run(
        [sys.executable, "-m", "hub", "bench", "--json", "--transport", transport, *load.options.split()],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"expected a run of {load.name} in {place}, got: {done.stderr[-500:]}")
    result = json.loads(done.stdout)
    return {name: result[name] * factor for name, (_, factor) in load.figures.items()}


@dataclass
class Pairs:
    """A figure of the commit and of this checkout, in each round."""

    was: list[float] = field(default_factory=list)
    now: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How much more, by the kinder of the two ways to say it."""
        ratios = [now / was for was, now in zip(self.was, self.now, strict=True)]
        return min(min(self.now) / min(self.was), median(ratios))


def play(before: Path, load: Load, transport: str, pairs: dict[str, Pairs]) -> None:
    """One round."""
    old, new = measure(before, load, transport), measure(ROOT, load, transport)
    for name, pair in pairs.items():
        pair.was.append(old[name])
        pair.now.append(new[name])


def main() -> int:
    """Returns 1 if a figure is worse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="what this checkout is compared with")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    worse = []
    with checkout(given.commit) as before:
        for load in LOADS:
            for transport in ("sse", "websocket"):
                pairs = {name: Pairs() for name in load.figures}
                for count in range(2 * given.rounds):
                    if count < given.rounds or any(pair.ratio > LIMIT for pair in pairs.values()):
                        play(before, load, transport, pairs)
                for name, pair in pairs.items():
                    mark = "" if pair.ratio <= LIMIT else "  WORSE"
                    worse += [load.name] if mark else []
                    unit = load.figures[name][0]
                    figures = f"{min(pair.was):>10.1f}{min(pair.now):>10.1f} {unit:<18}{pair.ratio:6.2f}"
                    print(f"{load.name + ', ' + transport:<30}{figures}{mark}", flush=True)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
