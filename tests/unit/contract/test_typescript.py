"""The TypeScript declarations: each kind of field, and text that tries to break out."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from hub.contract.typescript import typescript
from hub.job.catalogue import CATALOGUE, TypedEvent, register


class Tile(BaseModel):
    x: int
    names: list[str | int] = []


class Render(TypedEvent):
    """It ends */ here.

    And goes on.
    """

    type: Literal["render.tile"] = "render.tile"
    tile: Tile
    mode: Literal["fast", "fine"] = "fast"
    fixed: Literal[7] = 7
    done: bool | None = None
    extra: dict[str, float] = Field({}, description="one line */ alert")
    odd: Any = Field(None, alias="odd-name")


@pytest.fixture
def declared(monkeypatch):
    monkeypatch.setattr("hub.job.catalogue.CATALOGUE", catalogue := dict(CATALOGUE))
    monkeypatch.setattr("hub.contract.typescript.CATALOGUE", catalogue)
    register(Render)
    return typescript()


@pytest.mark.parametrize(
    "line",
    [
        "export interface Render {",
        '  type: "render.tile";',
        "  id?: string;",
        "  tile: Tile;",
        '  mode?: "fast" | "fine";',
        "  fixed?: 7;",
        "  done?: boolean | null;",
        "  extra?: Record<string, number>;",
        '  "odd-name"?: unknown;',
        "  [field: string]: unknown;",
        "  names?: Array<string | number>;",
        "  | Render",
        " * It ends *\\/ here.",
        "  /** one line *\\/ alert */",
        '  type: "hello";',
        '  op: "subscribe";',
    ],
)
def test_a_field_is_declared(declared, line):
    assert line in declared.splitlines() or f"{line};" in declared.splitlines()


def test_a_frame_of_the_hub_has_its_type_and_maybe_a_job():
    text = typescript()
    gap = text[text.index("export interface Gap {") :].partition("\n}\n")[0]
    assert 'type: "gap";' in gap
    assert "job_id?: string;" in gap
    assert "from: string | null;" in gap
