"""The contract as TypeScript declarations, made from the same JSON Schemas as the AsyncAPI document.

It knows the part of JSON Schema that pydantic writes. A schema that it does not know becomes `unknown`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from hub.contract.frames import COMMANDS, DASHBOARD
from hub.job.catalogue import CATALOGUE

Json = dict[str, Any]

HEAD = """\
// Made by `push-hub schema --typescript`. Do not edit.

/** epoch-seq. It is also the cursor: this event and everything before it. */
export type Cursor = string;
"""

PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def typescript() -> str:
    """Returns declarations of every event type, control frame and command; types that are registered too."""
    models = dict.fromkeys([*CATALOGUE.values(), *DASHBOARD.values(), *COMMANDS.values()])
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="{model}"
    )
    names = {model: reference["$ref"] for (model, _), reference in references.items()}
    schemas: Json = definitions["$defs"]
    for kind, model in CATALOGUE.items():
        _with(schemas[names[model]], {"id": {"type": "string"}}, {"type": {"const": kind}})
    for kind, control in DASHBOARD.items():
        _with(schemas[names[control]], {"job_id": {"type": "string"}}, {"type": {"const": kind}})
    return "\n".join(
        [
            HEAD,
            *(_interface(name, schema) for name, schema in schemas.items()),
            _union(
                "Event", "An event of a type that is registered.", (names[one] for one in CATALOGUE.values())
            ),
            _union(
                "Control",
                "A message of the hub about the stream.",
                (names[one] for one in DASHBOARD.values()),
            ),
            _union(
                "Command",
                "What a client may send over a WebSocket.",
                (names[one] for one in COMMANDS.values()),
            ),
        ]
    )


def _with(schema: Json, optional: Json, required: Json) -> None:
    """Add what a frame has beside its own fields."""
    schema["properties"] = {**required, **optional, **schema.get("properties", {}), **required}
    schema["required"] = [*required, *schema.get("required", ())]


def _interface(name: str, schema: Json) -> str:
    words = _comment(schema.get("description"), "")
    if schema.get("type") != "object":
        return f"{words}export type {name} = {_type(schema)};\n"
    return f"{words}export interface {name} {_body(schema, '')}\n"


def _body(schema: Json, indent: str) -> str:
    required = schema.get("required", ())
    inner = indent + "  "
    lines = [
        f"{_comment(field.get('description'), inner)}{inner}{_field(name)}{'' if name in required else '?'}: "
        f"{_type(field, inner)};"
        for name, field in schema.get("properties", {}).items()
    ]
    if schema.get("additionalProperties"):
        lines.append(f"{inner}[field: string]: unknown;")
    return "\n".join(["{", *lines, indent + "}"])


def _field(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else json.dumps(name)


def _type(schema: Json, indent: str = "") -> str:
    match schema:
        case {"$ref": name}:
            text = str(name)
        case {"const": value}:
            text = json.dumps(value)
        case {"enum": values}:
            text = " | ".join(map(json.dumps, values))
        case {"anyOf": members}:
            text = " | ".join(dict.fromkeys(_type(one, indent) for one in members))
        case {"type": "array"}:
            text = f"Array<{_type(schema.get('items', {}), indent)}>"
        case {"type": "object"}:
            text = _object(schema, indent)
        case _:
            text = PLAIN.get(str(schema.get("type")), "unknown")
    return text


def _object(schema: Json, indent: str) -> str:
    if "properties" in schema:
        return _body(schema, indent)
    values = schema.get("additionalProperties")
    return f"Record<string, {_type(values, indent) if isinstance(values, dict) else 'unknown'}>"


def _comment(words: str | None, indent: str) -> str:
    """A JSDoc comment; text of a model's author cannot end it."""
    if not words:
        return ""
    lines = words.replace("*/", "*\\/").splitlines()
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return "\n".join([f"{indent}/**", *(f"{indent} * {line}".rstrip() for line in lines), f"{indent} */\n"])


def _union(name: str, words: str, members: Iterable[str]) -> str:
    return f"/** {words} */\nexport type {name} =\n" + "\n".join(f"  | {one}" for one in members) + ";\n"
