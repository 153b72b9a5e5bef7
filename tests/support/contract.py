"""Holds control frames of a real hub against the machine-readable contract, by a JSON Schema validator that is
not ours."""

from __future__ import annotations

from functools import cache
from typing import Any

from jsonschema import Draft7Validator

from hub.contract.asyncapi import document
from hub.contract.frames import DASHBOARD
from hub.settings import Settings


@cache
def _validator(message: str) -> Draft7Validator:
    components = document(Settings())["components"]
    return Draft7Validator({**components["messages"][message]["payload"], "components": components})


def hold(message: str, fields: dict[str, Any]) -> None:
    """Fails unless `fields` is what the contract says of this message (`sse.gap`, `ws.pong`): no field is
    missing, none is of another kind, none is unknown."""
    _validator(message).validate(fields)
    transport, _, name = message.partition(".")
    known = {field.alias or key for key, field in DASHBOARD[name].model_fields.items()}
    if transport == "ws":
        known |= {"type", "job_id"}
    assert fields.keys() <= known, f"{message}: not in the contract: {fields.keys() - known}"
