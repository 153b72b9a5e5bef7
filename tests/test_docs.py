"""What the documents say by name is there: settings, metrics, tests, files."""

from __future__ import annotations

import ast
import gc
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

import hub
from hub.cli.setup import _words
from hub.settings import Settings
from hub.totals import FIELDS, is_counter

ROOT = Path(__file__).parent.parent
OPERATIONS = (ROOT / "docs/operations.md").read_text()
GUARANTEES = (ROOT / "docs/guarantees.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])


def test_the_table_of_settings_is_what_the_program_says(monkeypatch):
    """Names, defaults and words, and none is missing."""
    import os

    for name in [name for name in os.environ if name.startswith("HUB_")]:
        monkeypatch.delenv(name)
    settings = Settings()
    rows = re.findall(r"^\| `(HUB_\w+)` \| (?:`([^`]*)`)?[^|]*\| ([^|]*) \|$", OPERATIONS, re.MULTILINE)
    said = {name: (default, words) for name, default, words in rows}
    assert said == {
        f"HUB_{name.upper()}": (_words(getattr(settings, name)), field.description)
        for name, field in Settings.model_fields.items()
    }


def test_the_table_of_metrics_has_all_of_them():
    """And no other ones."""
    said = set(re.findall(r"^\| `hub_(\w+)` \| (?:gauge|counter|histogram) \|", OPERATIONS, re.MULTILINE))
    names = {one.metadata.get("group", one.name) for one in FIELDS}
    counters = {one.metadata.get("group", one.name) for one in FIELDS if is_counter(one)}
    others = {"delivery_latency_seconds", "join_seconds", "fanout_seconds", "build_info"}
    assert said == {f"{name}_total" if name in counters else name for name in names} | others


def test_the_reasons_of_refusals_are_explained():
    """Each has a sentence."""
    section = OPERATIONS.partition("## Why a viewer is refused")[2].partition("\n#")[0]
    group = "auth_refused_"
    reasons = {one.name.removeprefix(group) for one in FIELDS if one.name.startswith(group)}
    assert set(re.findall(r"^\| `(\w+)` \| ", section, re.MULTILINE)) == reasons


def test_each_promise_names_a_test_that_is_there():
    """By its function or its file."""
    names = set(re.findall(r"`(test_\w+)`", GUARANTEES))
    source = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE))
    assert names - defined == set()
    assert len(names) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_somewhere(page):
    """To a file, and where it names one to a heading in it."""
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
            assert heading in slugs, target


PATH = re.compile(
    r"(?<![\w./:@$~{-])(?:(?:hub|tests|docs|examples)/[\w./-]*\w/?|(?:[\w-]+/)*[\w-]+\.(?:py|lua|html|md|yml|toml|sh)(?![\w(]))"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_path_is_there(page):
    """From the root, from `hub/`, or from the page itself."""
    places = (ROOT, ROOT / "hub", page.parent)
    text = re.sub(r"https?://\S+", "", page.read_text())
    assert [name for name in PATH.findall(text) if not any((place / name).exists() for place in places)] == []


@cache
def parsed(file: str) -> ast.Module:
    """The syntax tree of a file. Python 3.11 raises SystemError if a collection runs Python code meanwhile (CPython
    issue 106905), as it may when tests of the browser ran before."""
    gc.disable()
    try:
        return ast.parse((ROOT / file).read_text())
    finally:
        gc.enable()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_name_is_in_its_file(page):
    """``name`` in ``hub/file.py``: a function, a class, or a method of a class."""
    for name, file in re.findall(r"`([\w.]+)` in `(hub/[\w/]+\.py)`", page.read_text()):
        found: list[ast.AST] = [parsed(file)]
        for part in name.split("."):
            children = [child for node in found for child in ast.walk(node)]
            found = [child for child in children if getattr(child, "name", None) == part]
        assert found, f"{name} in {file}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_import_works(page):
    """In code and in sentences."""
    for module, names in re.findall(r"\bfrom (hub[\w.]*) import ([\w, ]+)", page.read_text()):
        for name in names.split(","):
            assert hasattr(importlib.import_module(module), name.strip()), f"{module}.{name}"


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_each_room_is_named(name):
    """A new folder of `hub/` is not found by anybody who reads these."""
    rooms = {path.parent.name for path in ROOT.glob("hub/*/__init__.py")}
    assert rooms == set(re.findall(r"`hub/(\w+)/`", (ROOT / name).read_text()))


def test_each_logger_is_there():
    """What the page says to look for in the log, under this name."""
    source = "\n".join(path.read_text() for path in ROOT.glob("hub/**/*.py"))
    loggers = set(re.findall(r"(?:getLogger|quiet_log)\(\"(hub[\w.]*)\"\)", source))
    assert set(re.findall(r"`(hub\.\w+)`", OPERATIONS)) - loggers == set()


@pytest.mark.parametrize(
    "line",
    [
        "a viewer was sent away",
        "no answer to PING",
        "the key set was not fetched",
        "viewers moved away",
        "was not published",
    ],
)
def test_each_line_of_the_log_is_there(line):
    """The words that an operator is told to search for."""
    assert line in OPERATIONS
    assert any(line in path.read_text() for path in ROOT.glob("hub/**/*.py"))


def test_the_reference_has_every_public_name():
    """From where it is defined, and no other ones."""
    shown = re.findall(r"^::: (hub\.[\w.]+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(f"{home}.{name}" for name, home in hub._HOMES.items())
