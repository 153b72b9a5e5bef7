"""The typed events, those of an application's own, and how a producer's event becomes JSON text. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from hub.errors import EventTooLarge, InvalidCommand, InvalidEvent, InvalidSettings
from hub.job.event import MAX_EVENT_BYTES, RESERVED, JobId, dumps


class TypedEvent(BaseModel):
    """Fields every typed event shares; fields of your own pass through. A subclass gives `type` a default:

    `type: Literal["render.progress"] = "render.progress"`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    job_id: str | None = Field(
        default=None, description="the job this event belongs to; the publisher fills it in"
    )

    @classmethod
    def kind(cls) -> str:
        """The event type's name on the wire."""
        name: str = cls.model_fields["type"].default
        return name


class StageStarted(TypedEvent):
    """A stage of the build began. With a terminal status, this is the job's last event."""

    type: Literal["build.stage.started"] = "build.stage.started"
    stage: str | None = Field(default=None, description="name of the stage, free text")
    narration: str | None = Field(default=None, description="one sentence for the person who watches")
    status: str | None = Field(default=None, description="the job's status from now on")


class StageCompleted(TypedEvent):
    """A stage of the build is done."""

    type: Literal["build.stage.completed"] = "build.stage.completed"
    stage: str = Field(description="name of the stage")
    duration: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="seconds it took")


class SnapshotUpdated(TypedEvent):
    """A new picture of the result is available."""

    type: Literal["snapshot.updated"] = "snapshot.updated"
    url: str = Field(description="where the picture is")


class DocumentationUpdated(TypedEvent):
    """A section of the documentation was written."""

    type: Literal["documentation.updated"] = "documentation.updated"
    section: str = Field(description="heading of the section")
    content: str = Field(description="its text")


class CommandDone(TypedEvent):
    """The worker has done what a viewer's command asked for."""

    type: Literal["command.done"] = "command.done"
    command: str = Field(description="the command's id")
    name: str = Field(description="the command's name")


class CommandRefused(TypedEvent):
    """The worker will not do what a viewer's command asked for."""

    type: Literal["command.refused"] = "command.refused"
    command: str = Field(description="the command's id")
    name: str = Field(description="the command's name")
    reason: str = Field(description="why, for people")


CATALOGUE: dict[str, type[TypedEvent]] = {
    model.kind(): model
    for model in (
        StageStarted,
        StageCompleted,
        SnapshotUpdated,
        DocumentationUpdated,
        CommandDone,
        CommandRefused,
    )
}


class TypedCommand(BaseModel):
    """The arguments of an application's own command. A subclass gives `name` a default:

    `name: Literal["approve"] = "approve"`. Arguments that it does not name are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str


COMMANDS: dict[str, type[TypedCommand]] = {}
"""Commands whose arguments the hub checks. They need not be in `HUB_COMMANDS`."""

T = TypeVar("T", bound=TypedEvent)
C = TypeVar("C", bound=TypedCommand)


def register(model: type[T]) -> type[T]:
    """Add an application's own event to the catalogue; also a decorator. Raises InvalidEvent for a type that
    is taken."""
    kind = model.model_fields["type"].default
    if not isinstance(kind, str) or not kind:
        raise InvalidEvent(f"expected a default for type in {model.__name__}, got none")
    if kind in RESERVED or CATALOGUE.get(kind, model) is not model:
        raise InvalidEvent(f"expected a type of your own in {model.__name__}, got {kind!r}, which is taken")
    CATALOGUE[kind] = model
    return model


def register_command(model: type[C]) -> type[C]:
    """Allow an application's own command; also a decorator. Raises InvalidEvent for a name that is taken."""
    name = model.model_fields["name"].default
    if not isinstance(name, str) or not name:
        raise InvalidEvent(f"expected a default for name in {model.__name__}, got none")
    if COMMANDS.get(name, model) is not model:
        raise InvalidEvent(f"expected a name of your own in {model.__name__}, got {name!r}, which is taken")
    COMMANDS[name] = model
    return model


def checked_args(name: str, args: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a command, with the defaults of its model if it has one. Raises InvalidCommand."""
    model = COMMANDS.get(name)
    if model is None:
        return args
    try:
        return model.model_validate({**args, "name": name}).model_dump(mode="json", exclude={"name"})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise InvalidCommand(f"{name}: {where}: {problem['msg']}") from error


def load(modules: Iterable[str]) -> None:
    """Import the modules that register an application's own events. Raises InvalidSettings."""
    for name in sorted(modules):
        try:
            import_module(name)
        except Exception as error:
            raise InvalidSettings(
                f"expected HUB_CATALOGUE to name modules, got {name!r} ({error})"
            ) from error


def has_text(kind: str, name: str) -> bool:
    """Returns True if the field `name` of the type `kind` is text in the catalogue."""
    model = CATALOGUE.get(kind)
    field = model.model_fields.get(name) if model is not None else None
    return field is not None and field.annotation in (str, str | None)


def event_parts(kind: str | TypedEvent, fields: object) -> tuple[str, dict[Any, Any]]:
    """The type and the fields of what a producer gave: a typed event, or a type and a mapping, model or
    dataclass.

    Raises InvalidEvent.
    """
    if isinstance(kind, TypedEvent):
        if fields:
            raise InvalidEvent("expected no fields beside a typed event")
        return kind.type, kind.model_dump(exclude_none=True)
    if not isinstance(kind, str) or not kind:
        raise InvalidEvent(f"expected a type, got {kind!r}")
    if isinstance(fields, BaseModel):
        return kind, fields.model_dump()
    if dataclasses.is_dataclass(fields) and not isinstance(fields, type):
        return kind, {one.name: getattr(fields, one.name) for one in dataclasses.fields(fields)}
    if fields is None or isinstance(fields, Mapping):
        return kind, dict(fields or {})
    raise InvalidEvent(f"expected fields as a mapping, a model or a dataclass, got {type(fields).__name__}")


def encode(
    job: JobId,
    kind: str,
    fields: Mapping[str, Any],
    *,
    limit: int = MAX_EVENT_BYTES,
    strict: bool = True,
    trace: str = "",
) -> str:
    """The body of a new event as JSON text.

    `fields` of a type in the catalogue are checked by its model, others travel as they are. Without `strict`,
    values that JSON does not have are converted (see `plain`). `trace`: the event's `traceparent`, unless it
    has one. Raises InvalidEvent (EventTooLarge over `limit` bytes).
    """
    if not kind or "id" in fields:
        raise InvalidEvent("expected a type, and no field named id (the hub numbers events)")
    if kind in RESERVED:
        raise InvalidEvent(f"expected a type of your own, got {kind!r}, which is a control frame's")
    fields = {name: value for name, value in fields.items() if name not in ("type", "job_id")}
    if not strict:
        fields = plain(kind, fields)
    _check(kind, fields)
    head = {"type": kind, "traceparent": trace} if trace else {"type": kind}
    body = dumps({**head, **fields, "job_id": str(job)})
    if (size := len(body.encode())) > limit:
        raise EventTooLarge(f"expected at most {limit} bytes, got {size}")
    return body


def plain(kind: str, fields: dict[Any, Any]) -> dict[str, Any]:
    """`fields` as JSON has them. What JSON has already stays as it is; the rest follows pydantic's rules.

    Dates and times become ISO 8601, `Decimal`, `UUID` and `Path` text, enums their value, sets and tuples
    lists, bytes base64, models and dataclasses objects; NaN and infinity become null, anything else its
    `str()`. A negative `duration` of a completed stage becomes 0: clocks step back. Raises InvalidEvent.
    """
    try:
        dumps(fields)
    except InvalidEvent:
        try:
            text = to_json(fields, inf_nan_mode="null", bytes_mode="base64", fallback=_fallback)
            fields = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidEvent(f"expected fields that can be JSON, got {error}") from error
    duration = fields.get("duration")
    if kind == StageCompleted.kind() and isinstance(duration, int | float) and duration < 0:
        fields = {**fields, "duration": 0}
    return fields


def _fallback(value: object) -> object:
    """numpy's numbers and arrays have a plain value of their own; anything else is its text."""
    tolist = getattr(value, "tolist", None)
    return tolist() if callable(tolist) else str(value)


def _check(kind: str, fields: Mapping[str, Any]) -> None:
    model = CATALOGUE.get(kind)
    if model is None:
        return
    try:
        model(**fields)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise InvalidEvent(f"{kind}: {where}: {problem['msg']}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidEvent(f"{kind}: expected fields that are JSON, got {error}") from error
