"""The code of docs/testing.md, in a project of its own, as somebody would copy it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"

APPLICATION = """
from fastapi import FastAPI, HTTPException
from starlette.requests import HTTPConnection

from hub import Settings, User, mount, require_auth


def session_of(user):
    return f"session-of-{user}"


def signed_in(connection: HTTPConnection) -> User:
    session = connection.cookies.get("session", "")
    if not session.startswith("session-of-"):
        raise HTTPException(404, "Job not found")
    return User(session.removeprefix("session-of-"))


app = FastAPI()
mount(app, Settings())
app.dependency_overrides[require_auth] = signed_in
"""


@pytest.mark.parametrize(
    "option", [[], ["--push-hub-redis"], ["--push-hub-redis-url={url}"]], ids=["fake", "own", "url"]
)
def test_what_the_page_shows_passes(tmp_path, redis_server, option):
    pieces = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(pieces) == 3
    (tmp_path / "my_application.py").write_text(APPLICATION)
    (tmp_path / "test_hub.py").write_text("\n\n".join(pieces[:2]))
    (tmp_path / "test_members.py").write_text(pieces[2])
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\npythonpath = .\n")
    option = [one.format(url=redis_server.url) for one in option]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *option, "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_without_pytest_asyncio_other_tests_run(tmp_path):
    """The plugin is loaded wherever the package is installed."""
    (tmp_path / "test_other.py").write_text("def test_other():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", "-q", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
