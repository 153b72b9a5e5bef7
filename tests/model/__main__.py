"""Replays one schedule: `python -m tests.model SCENARIO PREEMPT CHOICES [MUTANT]`.

A violation prints this command with its arguments.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

from tests.model.explore import Listed, run
from tests.model.mutants import applied
from tests.model.scenarios import ALL
from tests.unit.scripted import Violation


def main(name: str, preempt: str, choices: str, mutant: str = "") -> int:
    listed = Listed([int(choice) for choice in choices.split(",") if choice != "-"])
    with applied(mutant) if mutant else nullcontext():
        try:
            done = run(ALL[name], listed, preempt=int(preempt))
        except Violation as error:
            print("\n".join([*error.story, "", f"broken: {error}"]))
            return 1
    print("\n".join([*done.world.story, "", "no law is broken"]))
    for viewer in done.world.viewers.values():
        print(viewer.name, [item.kind if item.g is None else item.g for item in viewer.items])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
