"""Typed events and commands: what may be registered, and how what a producer gives becomes JSON."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
from pydantic import BaseModel

from hub.errors import InvalidCommand, InvalidEvent, InvalidSettings
from hub.job import catalogue
from hub.job.catalogue import (
    StageCompleted,
    StageStarted,
    TypedCommand,
    TypedEvent,
    checked_args,
    event_parts,
    has_text,
    load,
    plain,
    register,
    register_command,
)
from hub.job.command import MAX_ARGS, JobCommand, command_of, command_text
from hub.job.event import EventId
from hub.job.record import Job


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    monkeypatch.setattr(catalogue, "CATALOGUE", dict(catalogue.CATALOGUE))
    monkeypatch.setattr(catalogue, "COMMANDS", dict(catalogue.COMMANDS))


def test_an_event_is_registered_by_its_type():
    class Rendered(TypedEvent):
        type: Literal["render.done"] = "render.done"
        frames: int

    assert register(Rendered) is Rendered
    assert register(Rendered) is Rendered  # a module may be imported twice
    assert catalogue.CATALOGUE["render.done"] is Rendered
    assert not has_text("render.done", "frames")
    assert has_text(StageStarted.kind(), "stage")
    assert has_text(StageCompleted.kind(), "stage")
    assert not has_text(StageStarted.kind(), "nothing")
    assert not has_text("nothing", "stage")

    class Another(TypedEvent):
        type: Literal["render.done"] = "render.done"

    class Reserved(TypedEvent):
        type: Literal["gap"] = "gap"

    class Nameless(TypedEvent):
        type: str

    class Empty(TypedEvent):
        type: str = ""

    class Number(TypedEvent):
        type: int = 7

    for model in (Another, Reserved, Nameless, Empty, Number):
        with pytest.raises(InvalidEvent, match=model.__name__):
            register(model)


def test_a_command_is_registered_by_its_name():
    class Approve(TypedCommand):
        name: Literal["approve"] = "approve"
        step: int = 1

    assert register_command(Approve) is Approve
    assert register_command(Approve) is Approve
    assert {"approve": Approve} == catalogue.COMMANDS
    assert checked_args("approve", {}) == {"step": 1}
    assert checked_args("approve", {"step": "3"}) == {"step": 3}
    assert checked_args("other", {"step": "3"}) == {"step": "3"}
    for args in ({"step": "x"}, {"more": 1}):
        with pytest.raises(InvalidCommand, match="approve: "):
            checked_args("approve", args)

    class Another(TypedCommand):
        name: Literal["approve"] = "approve"

    class Nameless(TypedCommand):
        name: str

    class Empty(TypedCommand):
        name: str = ""

    class Number(TypedCommand):
        name: int = 7

    for model in (Another, Nameless, Empty, Number):
        with pytest.raises(InvalidEvent, match=model.__name__):
            register_command(model)


def test_a_producer_gives_a_mapping_a_model_or_a_dataclass():
    class Model(BaseModel):
        n: int = 1

    @dataclasses.dataclass
    class Data:
        n: int = 1

    for fields in ({"n": 1}, Model(), Data()):
        assert event_parts("step", fields) == ("step", {"n": 1})
    assert event_parts("step", None) == ("step", {})
    assert event_parts(StageCompleted(stage="a"), None) == (
        "build.stage.completed",
        {"type": "build.stage.completed", "stage": "a"},
    )
    for kind, fields in (
        ("", {}),
        (7, {}),
        ("step", [1]),
        ("step", Data),
        ("step", Model),
        (StageStarted(), {"n": 1}),
    ):
        with pytest.raises(InvalidEvent):
            event_parts(kind, fields)


def test_a_clock_that_steps_back_makes_no_negative_duration():
    kind = StageCompleted.kind()
    assert plain(kind, {"duration": -0.1}) == {"duration": 0}
    for duration in (0, 0.5, "-1", None):
        assert plain(kind, {"duration": duration}) == {"duration": duration}
    assert plain("step", {"duration": -1}) == {"duration": -1}


def test_modules_that_cannot_be_imported_are_named():
    load(["json"])
    with pytest.raises(InvalidSettings, match="no_such_module"):
        load(["no_such_module"])


def test_a_command_is_read_back_as_it_was_given():
    text = command_text("approve", "ada", {"step": "é"})
    assert command_of("5-0", text) == JobCommand("5-0", "approve", "ada", {"step": "é"})
    for other in ("", "[]", "null", '{"name":"a"}', '{"name":"a","user":"b","args":7}'):
        assert command_of("5-0", other) == JobCommand("5-0", "", "")


def test_the_arguments_of_a_command_have_a_bound_in_bytes():
    room = MAX_ARGS - len('{"x":""}')
    assert command_text("a", "ada", {"x": "x" * room})
    assert command_text("a", "ada", {"x": "é" * (room // 2)})
    for value in ("x" * (room + 1), "é" * (room // 2 + 1)):
        with pytest.raises(InvalidCommand, match=f"at most {MAX_ARGS} bytes"):
            command_text("a", "ada", {"x": value})
    deep: list = []
    for _ in range(70):
        deep = [deep]
    with pytest.raises(InvalidCommand):
        command_text("a", "ada", {"x": deep})


def test_a_job_knows_whether_it_is_over_and_which_ids_it_has_given():
    job = Job("a", "code", "ada", 5, EventId(5, 3))
    assert not job.over
    assert Job("a", "ready", "ada").over
    assert not Job("a", "ready", "ada", terminal=frozenset({"failed"})).over
    given = {(5, 2): True, (5, 3): True, (5, 4): False, (4, 3): False, (6, 1): False}
    for (epoch, seq), is_given in given.items():
        assert job.has_given(EventId(epoch, seq)) is is_given
    assert not Job("a", "code", "ada").has_given(EventId(5, 0))
