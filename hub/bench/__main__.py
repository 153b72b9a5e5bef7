"""The producer's process: `python -m hub.bench URL --prefix P --jobs N --size N --template T [--bare]`."""

from __future__ import annotations

import argparse

from hub.bench.source import obey, through_channel, through_script
from hub.broker.keys import Keys
from hub.broker.script import Publication


def main() -> None:
    """Publish as the orders on stdin say."""
    parser = argparse.ArgumentParser(prog="hub.bench")
    parser.add_argument("url")
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--template", required=True)
    parser.add_argument("--bare", action="store_true")
    given = parser.parse_args()
    names = [f"{given.prefix}-{number}" for number in range(given.jobs)]
    through = through_channel if given.bare else through_script
    obey(through(given.url, names, Publication(keys=Keys(given.template))), jobs=given.jobs, size=given.size)


if __name__ == "__main__":
    main()
