"""The catalogue of typed events, and the encoding of a producer's event as JSON text. Pure."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hub.errors import EventTooLarge, InvalidEvent
from hub.job.event import MAX_EVENT_BYTES, JobId, dumps


class TypedEvent(BaseModel):
    """The fields that all typed events share. Additional fields are allowed and pass through unchanged."""

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


CATALOGUE: dict[str, type[TypedEvent]] = {
    model.kind(): model for model in (StageStarted, StageCompleted, SnapshotUpdated, DocumentationUpdated)
}


def encode(job: JobId, kind: str, fields: dict[str, Any], *, limit: int = MAX_EVENT_BYTES) -> str:
    """Encode the body of a new event as JSON text.

    For a `kind` in the catalogue, its model checks `fields`; other kinds are not checked. Raises
    InvalidEvent, and its subclass EventTooLarge if the text is longer than `limit` bytes.
    """
    if not kind or "id" in fields:
        raise InvalidEvent("expected a type, and no field named id (the publish script assigns ids)")
    fields = {name: value for name, value in fields.items() if name not in ("type", "job_id")}
    model = CATALOGUE.get(kind)
    if model is not None:
        try:
            model(**fields)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise InvalidEvent(f"{kind}: {where}: {problem['msg']}") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidEvent(f"{kind}: expected fields that are JSON, got {error}") from error
    body = dumps({"type": kind, **fields, "job_id": str(job)})
    if (size := len(body.encode())) > limit:
        raise EventTooLarge(f"expected at most {limit} bytes, got {size}")
    return body
