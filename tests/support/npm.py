"""What tests install from npm. Without it they are skipped; in CI a skip for npm is a failure (.ci/run)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def npm(place: Path, *words: str) -> str:
    """Run npm in `place`. Returns what it printed."""
    if shutil.which("npm") is None:
        pytest.skip("no npm")
    done = subprocess.run(
        ["npm", *words], cwd=place, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(place: Path, *packages: str) -> Path:
    """Install `packages`, or without any what the package.json in `place` says. Returns `place`."""
    if packages:
        (place / "package.json").write_text('{"private": true, "type": "module"}')
    npm(place, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *packages)
    return place
