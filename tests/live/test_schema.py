"""`push-hub schema` and `/asyncapi.json`, with an application's own types; read by tools that are not ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fakeredis import FakeAsyncRedis

from tests.support.live import live_hub, operator
from tests.support.npm import install

EVENTS = '''
from typing import Literal

from hub.job.catalogue import TypedEvent, register


@register
class Progress(TypedEvent):
    """So much is done."""

    type: Literal["render.progress"] = "render.progress"
    done: int
    of: int
'''
PARSE = """
import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";
const { document, diagnostics } = await new Parser().parse(readFileSync("asyncapi.json", "utf8"));
for (const { severity, message, path } of diagnostics)
  if (severity < 2) console.log(message, path.join("/"));
console.log(document ? document.channels().all().length + " channels" : "no document");
"""
USE = """
import type { Command, Control, Event, Progress } from "./events.js";

export function words(frame: Event | Control): string {
  switch (frame.type) {
    case "render.progress": return `${frame.done + frame.of}`;
    case "gap": return `${frame.from ?? "?"}: ${frame.reason}`;
    case "snapshot.updated": return frame.url;
    default: return frame.type;
  }
}
export const ping: Command = { op: "ping", ref: 1 };
// @ts-expect-error: `of` is missing
export const wrong: Progress = { type: "render.progress", done: 1 };
"""


@pytest.fixture
def application(tmp_path) -> Path:
    """A directory with a module that registers a type."""
    (tmp_path / "my_events.py").write_text(EVENTS)
    return tmp_path


def schema(
    directory: Path, *arguments: str, catalogue: str = "my_events"
) -> subprocess.CompletedProcess[str]:
    """Run `push-hub schema` in the directory of an application."""
    command = shutil.which("push-hub", path=str(Path(sys.executable).parent))
    assert command is not None
    return subprocess.run(
        [command, "schema", *arguments],
        cwd=directory,
        env={**os.environ, "HUB_CATALOGUE": catalogue},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="session")
def npm(tmp_path_factory) -> Path:
    """A directory with npm's parser of AsyncAPI and TypeScript's compiler."""
    return install(tmp_path_factory.mktemp("npm"), "@asyncapi/parser@3", "typescript@5")


def test_the_command_prints_the_types_of_the_application(application):
    printed = json.loads(schema(application).stdout)
    assert printed["asyncapi"] == "3.0.0"
    assert "sse.event.render.progress" in printed["channels"]["stream"]["messages"]


def test_the_command_prints_the_schema_of_one_type(application):
    printed = json.loads(schema(application, "render.progress").stdout)
    assert printed["required"] == ["type", "done", "of"]
    wrong = schema(application, "render.nothing")
    assert wrong.returncode == 1
    assert "render.progress" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


def test_a_module_that_cannot_be_imported_is_one_line(application):
    (application / "broken.py").write_text("1 / 0")
    for name, words in (("nothing_here", "No module named"), ("broken", "division by zero")):
        result = schema(application, catalogue=name)
        assert result.returncode == 1
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1


async def test_the_hub_serves_the_contract():
    async with live_hub(FakeAsyncRedis()) as live, httpx.AsyncClient(base_url=live.url) as client:
        served = (await client.get("/asyncapi.json", headers=operator())).json()
    assert served["channels"]["socket"]["address"] == "/api/jobs/{job_id}/events/ws"


def test_the_parser_of_the_asyncapi_project_finds_nothing_wrong(application, npm):
    (npm / "asyncapi.json").write_text(schema(application).stdout)
    (npm / "parse.js").write_text(PARSE)
    result = subprocess.run(
        ["node", "parse.js"], cwd=npm, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.split("\n") == ["4 channels", ""]


def test_typescript_takes_the_declarations_and_checks_by_them(application, npm):
    (npm / "events.d.ts").write_text(schema(application, "--typescript").stdout)
    (npm / "use.ts").write_text(USE)
    options = ["--strict", "--noEmit", "--module", "nodenext", "--skipLibCheck", "false"]
    result = subprocess.run(
        ["npx", "tsc", *options, "use.ts"], cwd=npm, capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_typescript_takes_the_declarations_of_hub_js(npm):
    """Options, states of one's own, and what is wrong is found."""
    client = Path(__file__).parents[2] / "hub/static/client"
    for name in ("hub.d.ts", "react.d.ts"):
        shutil.copy(client / name, npm / name)
    (npm / "watching.ts").write_text(USE_HUB_JS)
    options = ["--strict", "--noEmit", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom"]
    result = subprocess.run(
        ["npx", "tsc", *options, "watching.ts"],
        cwd=npm,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "")


USE_HUB_JS = """
import { dashboard, watch, fold, WatchError, type JobState } from "./hub.js";
import { useJob } from "./react.js";
const { state, error } = useJob("a", { types: ["x"] });
const shown: string | null = error ? error.message : state.status;
const reduced: number = useJob<{ n: number }>("a", { reduce: (now) => ({ n: now.n + 1 }) }).state.n;
const board = dashboard({ renew: async () => {} });
const member = board.watch("a", { from: "live" });
const stages: string[] = member?.state.stages.map((stage) => stage.name) ?? [];
// @ts-expect-error a dashboard takes no token
dashboard({ token: "t" });
const job = watch("a", { types: ["x"], from: "-20", token: async () => "t" });
for await (const event of job) console.log(event.type.length, event.id?.length);
const status: string | null = job.state.status;
const counted = watch<{ n: number }>("b", { reduce: (state, event) => ({ n: (state.n ?? 0) + (event.id ? 1 : 0) }) });
const n: number = counted.getSnapshot().n;
const next: JobState = fold(job.state, { type: "x" });
if (job.error instanceof WatchError && job.error.code === "not_found") console.log(status, n, next);
// @ts-expect-error: there is no such transport
watch("c", { transport: "pigeon" });
"""
