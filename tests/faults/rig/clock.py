"""`push-hub serve` with a wrong wall clock: a file says by how many seconds, and may change at any time."""

from __future__ import annotations

import os
import time
from pathlib import Path

OFFSET = "FAKETIME_TIMESTAMP_FILE"
"""The variable that names the file; libfaketime uses the same variable and file."""

_time, _time_ns = time.time, time.time_ns


def offset() -> float:
    return float(Path(os.environ[OFFSET]).read_text())


time.time = lambda: _time() + offset()
time.time_ns = lambda: _time_ns() + int(offset() * 1e9)

if __name__ == "__main__":
    from hub.cli import main  # after the patch: modules that import the clock by name get this one

    main()
