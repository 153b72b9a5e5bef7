"""`push-hub serve` whose wall clock is off by the seconds that stand in a file, which may change at any time."""

from __future__ import annotations

import os
import time
from pathlib import Path

OFFSET = "FAKETIME_TIMESTAMP_FILE"
"""Names the file; the variable is that of libfaketime, which reads the same file."""

_time, _time_ns = time.time, time.time_ns


def offset() -> float:
    return float(Path(os.environ[OFFSET]).read_text())


time.time = lambda: _time() + offset()
time.time_ns = lambda: _time_ns() + int(offset() * 1e9)

if __name__ == "__main__":
    from hub.cli import main  # after the clock, so that whatever takes it by name takes this one

    main()
