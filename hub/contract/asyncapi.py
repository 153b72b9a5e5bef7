"""The contract as an AsyncAPI 3 document: both transports, all control frames, every event type.

Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hub.contract.frames import COMMANDS, DASHBOARD, SOCKET, STREAM
from hub.job.catalogue import CATALOGUE
from hub.settings import Settings

Json = dict[str, Any]

DESCRIPTION = (
    "Background jobs publish events, and people watch them live. Both transports carry the same events with "
    "the same ids. docs/protocol.md is this contract in words."
)

ID = {"type": "string", "description": "epoch-seq; also the cursor: this event and everything before it"}
JOB = {"type": "string", "description": "the job; on each frame about a job of a dashboard"}

ASKED = ("ping", "state")
"""The commands of the WebSocket of one job."""

QUERY = {
    "last_event_id": "the last event you have; the stream resumes after it",
    "from": "where to start without a cursor: start (the default), live, or -20 (the last 20 events)",
    "types": "event types, separated by commas; terminal events always pass",
    "wait": "seconds (at most 30) to wait for a job that does not exist yet",
}


def document(settings: Settings, *, prefix: str = "") -> Json:
    """Returns the AsyncAPI 3 document, as JSON. `prefix` is the path that the hub is mounted below.

    It has the event types that are registered now (`hub.job.catalogue.register`).
    """
    models, schemas = _schemas()
    messages = {
        **{f"sse.{name}": _sse_control(name, models[model]) for name, model in STREAM.items()},
        **{f"ws.{name}": _ws_control(name, models[model]) for name, model in DASHBOARD.items()},
        **{f"command.{name}": _command(name, models[model]) for name, model in COMMANDS.items()},
    }
    events = {_key(kind): (kind, models[model]) for kind, model in CATALOGUE.items()}
    events["other"] = ("any other type", {"$ref": "#/components/schemas/OtherEvent"})
    for key, (kind, schema) in events.items():
        messages[f"published.{key}"] = _message(kind, schema)
        messages[f"sse.event.{key}"] = _message(kind, schema, headers=_object({"id": ID}))
        messages[f"ws.event.{key}"] = _message(kind, _also(schema, {"id": ID}))
    channels = _channels(settings, prefix, events)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "push-hub", "version": version("push-hub"), "description": DESCRIPTION},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": _operations(channels),
        "components": {
            "messages": messages,
            "schemas": {**schemas, "OtherEvent": _other()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {"type": "httpApiKey", "in": "cookie", "name": settings.session_cookie},
            },
        },
    }


def event_schema(kind: str) -> Json | None:
    """Returns the JSON Schema of the event type `kind`, or None if it is not in the catalogue."""
    model = CATALOGUE.get(kind)
    return None if model is None else _required_type(model.model_json_schema())


def _schemas() -> tuple[dict[type[BaseModel], Json], Json]:
    """References to the schema of each model, and the schemas themselves by name."""
    models: list[type[BaseModel]] = [*CATALOGUE.values(), *DASHBOARD.values(), *COMMANDS.values()]
    references, definitions = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)],
        ref_template="#/components/schemas/{model}",
    )
    schemas = definitions.get("$defs", {})
    for model in CATALOGUE.values():
        _required_type(schemas[_name(references[model, "validation"])])
    return {model: references[model, "validation"] for model in models}, schemas


def _required_type(schema: Json) -> Json:
    """The schema of an event as it is on the wire: `type`, which a
    producer need not write, is always there.
    """
    schema["required"] = ["type", *(name for name in schema.get("required", ()) if name != "type")]
    return schema


def _name(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _key(kind: str) -> str:
    """`kind` as a key of AsyncAPI, which allows few characters."""
    return re.sub(r"[^\w.-]", "_", kind, flags=re.ASCII)


def _object(properties: Json, required: Iterable[str] = ()) -> Json:
    schema = {"type": "object", "properties": properties}
    return {**schema, "required": list(required)} if required else schema


def _also(schema: Json, properties: Json, required: Iterable[str] = ()) -> Json:
    return {"allOf": [schema, _object(properties, required)]}


def _message(name: str, payload: Json, **more: Any) -> Json:
    return {"name": name, "title": name, "payload": payload, **more}


def _summary(name: str) -> str:
    model: type[BaseModel] = {**DASHBOARD, **COMMANDS}[name]
    return inspect.cleandoc(model.__doc__ or "").partition("\n")[0]


def _sse_control(name: str, schema: Json) -> Json:
    """An event stream names a control frame in its `event:` field; only some have an `id:`."""
    headers = _object({"event": {"const": name}, "id": ID}, ["event"])
    return _message(name, schema, headers=headers, summary=_summary(name))


def _ws_control(name: str, schema: Json) -> Json:
    return _message(
        name, _also(schema, {"type": {"const": name}, "job_id": JOB}, ["type"]), summary=_summary(name)
    )


def _command(name: str, schema: Json) -> Json:
    return _message(name, schema, summary=_summary(name))


def _other() -> Json:
    return {
        "title": "OtherEvent",
        "description": "An event of a type that is not registered. It passes through unchanged.",
        **_object({"type": {"type": "string"}, "job_id": {"type": "string"}}),
    }


def _channels(settings: Settings, prefix: str, events: Iterable[str]) -> Json:
    of_job = {"job_id": {"description": "the job's id"}}
    query = _object({name: {"type": "string", "description": words} for name, words in QUERY.items()})
    socket = {"method": "GET", "bindingVersion": "0.1.0"}
    return {
        "stream": {
            "address": f"{prefix}/api/jobs/{{job_id}}/events/stream",
            "title": "Server-Sent Events",
            "description": "The query parameters of the WebSocket, and the header Last-Event-ID.",
            "parameters": of_job,
            "messages": _references([*_keys("sse", STREAM), *_keys("sse.event", events)]),
        },
        "socket": {
            "address": f"{prefix}/api/jobs/{{job_id}}/events/ws",
            "title": "WebSocket of one job",
            "parameters": of_job,
            "messages": _references(
                [*_keys("ws", SOCKET), *_keys("ws.event", events), *_keys("command", ASKED)]
            ),
            "bindings": {"ws": {**socket, "query": query}},
        },
        "dashboard": {
            "address": f"{prefix}/api/events/ws",
            "title": "WebSocket of many jobs",
            "messages": _references(
                [*_keys("ws", DASHBOARD), *_keys("ws.event", events), *_keys("command", COMMANDS)]
            ),
            "bindings": {"ws": {**socket, "query": _object({})}},
        },
        "published": {
            "address": _pubsub(settings),
            "title": "Redis Pub/Sub",
            "description": f"What workers publish on {settings.key_template}:events. `hub.Publisher` does more "
            "than PUBLISH: docs/protocol.md.",
            "messages": _references(_keys("published", events)),
            **({"parameters": of_job} if _pubsub(settings) else {}),
        },
    }


def _pubsub(settings: Settings) -> str | None:
    """The channel's address; None if the template has a hash tag, whose braces AsyncAPI takes for its own."""
    around = settings.key_template.replace("{id}", "")
    return None if "{" in around else f"{settings.key_template.replace('{id}', '{job_id}')}:events"


def _keys(group: str, names: Iterable[str]) -> list[str]:
    return [f"{group}.{name}" for name in names]


def _references(messages: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in messages}


def _operations(channels: Json) -> Json:
    """What the hub sends and receives, in AsyncAPI's words: from the hub's point of view."""
    security = [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("token", "cookie")]

    def operation(action: str, channel: str, summary: str, **more: Any) -> Json:
        from_client = action == "receive" and channel != "published"
        return {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": summary,
            "messages": [
                {"$ref": f"#/channels/{channel}/messages/{key}"}
                for key in channels[channel]["messages"]
                if key.startswith("command.") == from_client
            ],
            **more,
        }

    return {
        "stream": operation("send", "stream", "Watch a job over Server-Sent Events", security=security),
        "socket": operation("send", "socket", "Watch a job over a WebSocket", security=security),
        "dashboard": operation("send", "dashboard", "Watch many jobs over one WebSocket", security=security),
        "commands": operation("receive", "socket", "Ping, or ask for the state"),
        "subscriptions": operation("receive", "dashboard", "Subscribe to jobs"),
        "publish": operation("receive", "published", "Publish an event of a job"),
    }
