"""Lets a test have the machine to itself while the others of the session run in several processes."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path
from typing import IO


class Turns:
    """Two locked files that all processes of the session share: `begin` before each test, `end` after it.

    Tests share the room; one that is `alone` waits until it is empty. The door is what keeps it from waiting for
    ever: whoever waits for the room holds the door, and nobody else comes in meanwhile.
    """

    def __init__(self, session: str) -> None:
        place = Path(tempfile.gettempdir())
        self._door, self._room = (
            self._open(place / f"push-hub-{session}-{name}") for name in ("door", "room")
        )
        self._is_alone = False

    def begin(self, *, alone: bool) -> None:
        """Return when the test may run. One that follows another that is `alone` has the room already."""
        if alone and self._is_alone:
            return
        self._leave()
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        self._is_alone = alone
        fcntl.flock(self._door, fcntl.LOCK_UN)

    def end(self, *, stay: bool) -> None:
        """The pair of `begin`. `stay`: the next test is alone, too, if this one was."""
        if not (self._is_alone and stay):
            self._leave()

    def close(self) -> None:
        for file in (self._door, self._room):
            file.close()
            Path(file.name).unlink(missing_ok=True)

    def _leave(self) -> None:
        fcntl.flock(self._room, fcntl.LOCK_UN)
        self._is_alone = False

    @staticmethod
    def _open(path: Path) -> IO[bytes]:
        return path.open("ab")
