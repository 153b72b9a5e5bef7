"""The services of docker-compose.yml as processes, each in a network namespace of its own where the others have their
names. It is what a container engine would give them, without one. Needs root, and ip(8)."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hub.demo.embedded import find_binary
from tests.support.browser import ROOT

NETWORK = "10.213.9"
HUB = ["push-hub", "serve", "--host", "0.0.0.0"]
"""What the image runs by itself."""


class Composed:
    """A context manager. `names` are the services; `secrets` fill in the file's variables."""

    def __init__(self, *names: str, secrets: Mapping[str, str]) -> None:
        self._file = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        self._names = names
        self._secrets = secrets
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Composed:
        self._directory = tempfile.TemporaryDirectory(prefix="push-hub-composed-")
        self.place = Path(self._directory.name)
        hosts = "127.0.0.1 localhost\n"
        hosts += "".join(f"{NETWORK}.{number} {name}\n" for number, name in enumerate(self._names, 1))
        _ip("netns", "add", _space("switch"))
        _ip("-n", _space("switch"), "link", "add", "switch", "type", "bridge")
        _ip("-n", _space("switch"), "link", "set", "switch", "up")
        for number, name in enumerate(self._names, 1):
            (self.place / name).mkdir()
            private = Path("/etc/netns", _space(name))
            private.mkdir(parents=True)
            (private / "hosts").write_text(hosts)
            self._connect(name, number)
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                os.killpg(process.pid, 9)
                await process.wait()
        for name in ("switch", *self._names):
            subprocess.run(["ip", "netns", "delete", _space(name)], check=False, capture_output=True)
            shutil.rmtree(Path("/etc/netns", _space(name)), ignore_errors=True)
        self._directory.cleanup()

    async def up(self, *names: str) -> None:
        """Start services, and return when their health checks are content."""
        for name in names:
            with (self.place / name / "log").open("ab") as log:
                self._processes[name] = await self._start(name, self._command(name), stdout=log, stderr=log)
        for name in names:
            check = self._service(name).get("healthcheck") or _check_of_image()
            if self._service(name).get("image", "").startswith("haproxy") or check.get("disable"):
                continue
            async with asyncio.timeout(30):
                while (await self.run(name, "sh", "-c", _text(check["test"][1])))[0]:
                    await asyncio.sleep(0.1)

    async def run(self, name: str, *command: str) -> tuple[int, str]:
        """Run `command` in the place of a service, or its own to the end. Returns the exit code, and what it
        printed."""
        pipe = asyncio.subprocess.PIPE
        process = await self._start(
            name, list(command) or self._command(name), stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    def log(self, name: str) -> str:
        """What a service has printed."""
        return (self.place / name / "log").read_text()

    async def kill(self, name: str, signal: int = 9) -> None:
        """Send a signal, and return when the service has ended."""
        process = self._processes[name]
        os.killpg(process.pid, signal)
        await process.wait()

    # --- a service of the file

    def _service(self, name: str) -> dict[str, Any]:
        return self._file["services"][name]

    def _command(self, name: str) -> list[str]:
        service = self._service(name)
        if service.get("image", "").startswith("haproxy"):
            (config,) = service["configs"]
            text = self._file["configs"][config["source"]]["content"]
            file = self.place / name / "haproxy.cfg"
            file.write_text(text.replace(" resolvers docker", ""))  # there is no DNS server here
            return [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", str(file)]
        if "entrypoint" not in service:
            return HUB
        command = [_text(word) for word in service["command"]]
        command = [word.replace("exec redis-server", f"exec {find_binary()}") for word in command]
        return [
            *service["entrypoint"],
            *(word.replace("/examples/", f"{ROOT}/examples/") for word in command),
        ]

    async def _start(self, name: str, command: list[str], **more: Any) -> asyncio.subprocess.Process:
        values = self._service(name).get("environment", {})
        environment = {key: self._fill_in(value) for key, value in values.items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", _space(name), *command),
            cwd=self.place / name,
            env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **environment},
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            **more,
        )

    def _fill_in(self, value: str) -> str:
        return re.sub(r"\$\{(\w+)[^}]*\}", lambda found: self._secrets[found[1]], value)

    def _connect(self, name: str, number: int) -> None:
        switch, space = _space("switch"), _space(name)
        _ip("netns", "add", space)
        _ip(
            "-n",
            switch,
            "link",
            "add",
            f"port{number}",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            space,
        )
        _ip("-n", switch, "link", "set", f"port{number}", "master", "switch", "up")
        _ip("-n", space, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", space, "link", "set", device, "up")


def _check_of_image() -> dict[str, Any]:
    """The health check of Dockerfile, in the form of the compose file."""
    (words,) = re.findall(r"HEALTHCHECK.*\\\n +CMD \[(.*)\]", (ROOT / "Dockerfile").read_text())
    python, flag, script = (word.strip().strip('"') for word in words.split(", ", 2))
    return {"test": ["CMD-SHELL", f'{python} {flag} "{script}"']}


def _text(word: str) -> str:
    return word.replace("$$", "$")


def _space(name: str) -> str:
    return f"composed{os.getpid()}-{name}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)
