"""The rooms: imports run down only, in no circle, and outside packages live where they may."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hub"

ROWS = [
    {"hub.timings"},
    {"hub.errors", "hub.quiet", "hub.ending", "hub.redaction", "hub.totals", "hub.tracing"},
    {"hub.job", "hub.setting_files"},
    {"hub.settings"},
    {"hub.broker", "hub.contract", "hub.fanout"},
    {"hub.feed", "hub.produce"},
    {"hub.engine"},
    {"hub.transports"},
    {"hub.web"},
    {"hub.serve"},
    {"hub.client"},
    {"hub.demo"},
    {"hub.bench"},
    {"hub.cli", "hub.testing"},
    {"hub.__main__", "hub"},
]
"""The rooms, from the ground up. A file imports its own room and the rows below it; rooms of one row do not know each other."""

HOMES = {
    "redis": {"hub.broker"},
    "fakeredis": {"hub.testing"},
    "pytest": {"hub.testing.plugin"},
    "pytest_asyncio": {"hub.testing.plugin"},
    "starlette": {"hub.transports", "hub.web", "hub.demo"},
    "fastapi": {"hub.transports", "hub.web", "hub.serve", "hub.demo", "hub.testing"},
    "uvicorn": {
        "hub.transports.uvicorn_door",
        "hub.transports.uvicorn_http",
        "hub.transports.uvicorn_limits",
        "hub.transports.uvicorn_websocket",
        "hub.serve",
    },
    "websockets": {"hub.transports", "hub.client"},
    "jwt": {"hub.web", "hub.demo", "hub.cli", "hub.testing"},
    "prometheus_client": {"hub.web"},
    "opentelemetry": {"hub.tracing"},
    "typer": {"hub.cli", "hub.bench"},
    "rich": {"hub.cli", "hub.client.timeline", "hub.demo", "hub.bench"},
    "pydantic": {
        "hub.contract",
        "hub.job.catalogue",
        "hub.setting_files",
        "hub.settings",
        "hub.web",
        "hub.cli",
    },
    "pydantic_settings": {"hub.setting_files", "hub.settings"},
}
"""Where a package may be imported; the benchmark stands outside and may use what it measures."""

OUTSIDE = "hub.bench"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, ast.Module]:
    return {name_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def within(name: str, homes: set[str]) -> bool:
    return any(name == home or name.startswith(home + ".") for home in homes - {"hub"}) or name in homes


def room(name: str) -> str:
    """The room of a module: the folder below `hub/`, or a file that stands there by itself."""
    return ".".join(name.split(".")[:2])


def row(name: str) -> int:
    (number,) = [index for index, rooms in enumerate(ROWS) if room(name) in rooms]
    return number


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(node: ast.AST, *, inside: bool = True) -> set[str]:
    """Modules imported, in functions too when `inside`; not under `if TYPE_CHECKING`."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                found.add(full if full in modules() else child.module)
        elif inside or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found |= imports(child, inside=inside)
    return found


def ours(name: str, *, inside: bool = True) -> set[str]:
    return {one for one in imports(modules()[name], inside=inside) if one in modules()} - {name}


@pytest.mark.parametrize("name", modules())
def test_every_module_has_a_room(name):
    """A new folder, or a file beside the folders, says where it belongs, once."""
    assert row(name) in range(len(ROWS))


def test_every_room_is_there():
    """A row that names nothing is a row that nobody keeps."""
    assert set().union(*ROWS) == {room(name) for name in modules()}


@pytest.mark.parametrize("name", modules())
def test_imports_run_down_only(name):
    """Need to go up, or into the next room? Then the type is in the wrong file."""
    wrong = {one for one in ours(name) if row(one) >= row(name) and room(one) != room(name)}
    assert not wrong, f"{name} imports from above or beside: {wrong}"


def test_imports_make_no_circle():
    """Not even through functions."""
    try:
        TopologicalSorter({name: ours(name) for name in modules()}).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' -> '.join(error.args[1])}") from None


@pytest.mark.parametrize("name", [name for name in modules() if not within(name, {OUTSIDE})])
def test_outside_packages_stay_in_their_rooms(name):
    """Redis in broker/, the web framework in transports/ and web/, uvicorn where sockets are."""
    roots = {one.partition(".")[0] for one in imports(modules()[name])}
    strays = {root for root in roots & HOMES.keys() if not within(name, HOMES[root])}
    assert not strays, f"{name} imports {strays}"


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_it_is_for(name):
    """A docstring, unless the file is empty."""
    tree = modules()[name]
    assert not tree.body or ast.get_docstring(tree), f"{name} has no docstring"


@pytest.mark.parametrize("name", modules())
def test_every_public_name_has_a_docstring(name):
    """Classes, functions and methods without an underscore; protocols of `...` say it in the class."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    public = [n for n in modules()[name].body if isinstance(n, kinds) and not n.name.startswith("_")]
    assert not [node.name for node in public if not ast.get_docstring(node)]


def bodies() -> dict[str, int]:
    """The lines of each function's body, without its docstring."""
    found = {}
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                found[f"{name}.{node.name}:{node.lineno}"] = lines
    return found


def test_functions_and_files_stay_short():
    """A function that needs more is two; a file that needs more has two nouns."""
    assert not {name: lines for name, lines in bodies().items() if lines > 40}
    assert statistics.median(bodies().values()) <= 4
    lengths = {path.name: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > 300}


def test_few_lines_silence_a_tool():
    """Each is a place where a reader has to believe."""
    silenced = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"# (noqa|type: ignore)", line)
    ]
    assert len(silenced) <= 21, "\n".join(silenced)


STATEMENTS = (
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.If,
    ast.Try,
)


@pytest.mark.parametrize("name", [name for name in modules() if not name.endswith("__main__")])
def test_a_module_only_defines(name):
    """At import nothing is done: definitions, imports and constants; a call that stands alone is a side effect."""
    alone = [
        ast.unparse(node)
        for node in modules()[name].body
        if not isinstance(node, STATEMENTS)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and ast.unparse(node) != "main()"
        and not (isinstance(node, ast.Expr) and "add_typer" in ast.unparse(node))
        and not (isinstance(node, ast.Expr) and ".command(" in ast.unparse(node))
    ]
    assert not alone


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOADED = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


@pytest.mark.parametrize(
    "code",
    ["import hub", "from hub import Publisher", "from hub import SyncPublisher, JobStateMachine, EventId"],
)
def test_a_worker_loads_no_web_framework(code):
    """`Publisher` costs neither FastAPI nor uvicorn."""
    loaded = set(run(f"{code}; {LOADED}").split())
    assert not loaded & {
        "fastapi",
        "starlette",
        "uvicorn",
        "websockets",
        "jwt",
        "typer",
        "rich",
        "prometheus_client",
    }


@pytest.mark.parametrize(
    "name", ["hub.job.log", "hub.job.frame", "hub.feed.state", "hub.feed.numbering", "hub.fanout.wire"]
)
def test_the_pure_part_loads_neither_redis_nor_settings(name):
    """The contract with Redis stands in a file without Redis (broker/seam.py), and records know nothing of where they are from."""
    loaded = set(run(f"import {name}; {LOADED}").split())
    assert not loaded & {"redis", "hiredis", "pydantic", "pydantic_settings", "fastapi", "uvicorn"}


def test_importing_the_package_loads_nothing_of_it():
    """Each name is imported when it is first used."""
    assert run("import hub, sys; print([n for n in sys.modules if n.startswith('hub.')])") == "[]"


def test_importing_everything_starts_nothing():
    """No thread, no event loop, no logging handler, no open socket."""
    names = [name for name in modules() if not name.endswith("__main__")]
    code = f"""
import asyncio, gc, importlib, logging, socket, threading
for name in {names!r}:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
assert not logging.getLogger().handlers, logging.getLogger().handlers
assert not [one for one in gc.get_objects() if isinstance(one, socket.socket)]
assert asyncio.get_event_loop_policy()._local._loop is None
print("nothing")
"""
    assert run(code) == "nothing"


def test_every_public_name_of_the_package_can_be_imported():
    """`hub.__all__` is true."""
    assert (
        run("import hub; print(len([getattr(hub, name) for name in hub.__all__]) == len(hub.__all__))")
        == "True"
    )


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    """As of any module."""
    import hub

    with pytest.raises(AttributeError):
        getattr(hub, "nothing")  # noqa: B009  # as an attribute it would be a useless expression
