"""The AsyncAPI document: whole, valid for others, and with the types of an application."""

from __future__ import annotations

from typing import Literal

import pytest
from jsonschema import Draft7Validator
from pydantic import BaseModel
from pydantic_asyncapi.v3 import AsyncAPI

from hub.contract.asyncapi import document, event_schema
from hub.contract.frames import COMMANDS, DASHBOARD
from hub.job.catalogue import CATALOGUE, TypedEvent, register
from hub.job.event import RESERVED
from hub.settings import Settings
from hub.transports.commands import _OPS


@pytest.fixture
def registered(monkeypatch):
    """A catalogue of the test's own."""
    monkeypatch.setattr("hub.job.catalogue.CATALOGUE", catalogue := dict(CATALOGUE))
    monkeypatch.setattr("hub.contract.asyncapi.CATALOGUE", catalogue)
    return register


class Tile(BaseModel):
    """Where in the picture."""

    x: int
    y: int


class Progress(TypedEvent):
    """So much is done."""

    type: Literal["render/progress"] = "render/progress"
    done: int
    tile: Tile | None = None


def resolve(whole: dict, reference: dict) -> dict:
    found = whole
    for part in reference["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_a_reader_that_is_not_ours_takes_it():
    read = AsyncAPI.model_validate(document(Settings()))
    assert {"stream", "socket", "dashboard", "published"} == set(read.channels)


def test_each_control_frame_and_command_has_a_message():
    messages = document(Settings())["components"]["messages"]
    assert set(DASHBOARD) == RESERVED
    assert set(COMMANDS) == set(_OPS)
    assert all(f"ws.{name}" in messages for name in RESERVED)


def test_each_type_is_on_each_channel():
    whole = document(Settings())
    for channel, group in (
        ("stream", "sse.event"),
        ("socket", "ws.event"),
        ("dashboard", "ws.event"),
        ("published", "published"),
    ):
        for kind in CATALOGUE:
            message = resolve(whole, whole["channels"][channel]["messages"][f"{group}.{kind}"])
            assert message["name"] == kind


def test_what_the_hub_sends_and_what_a_client_sends_are_apart():
    operations = document(Settings())["operations"]
    for name, operation in operations.items():
        commands = {
            message["$ref"].rpartition("/")[2].startswith("command.") for message in operation["messages"]
        }
        assert commands == {name in ("commands", "subscriptions")}, name


def test_a_type_of_an_application_is_in_it_with_the_models_it_uses(registered):
    registered(Progress)
    whole = document(Settings())
    message = whole["components"]["messages"]["published.render_progress"]
    schema = Draft7Validator({**message["payload"], "components": whole["components"]})
    assert schema.is_valid({"type": "render/progress", "done": 3, "tile": {"x": 1, "y": 2}, "more": True})
    assert not schema.is_valid({"type": "render/progress", "done": 3, "tile": {"x": 1}})
    assert not schema.is_valid({"done": 3})
    AsyncAPI.model_validate(whole)


def test_an_event_over_websocket_may_have_an_id():
    whole = document(Settings())
    payload = whole["components"]["messages"]["ws.event.snapshot.updated"]["payload"]
    schema = Draft7Validator({**payload, "components": whole["components"]})
    assert schema.is_valid({"id": "1-2", "type": "snapshot.updated", "url": "/a.png"})
    assert not schema.is_valid({"id": 12, "type": "snapshot.updated", "url": "/a.png"})


def test_a_schema_of_one_type_stands_alone(registered):
    registered(Progress)
    schema = Draft7Validator(event_schema("render/progress"))
    assert schema.is_valid({"type": "render/progress", "done": 3, "tile": {"x": 1, "y": 2}})
    assert not schema.is_valid({"type": "render/progress"})
    assert event_schema("render.unknown") is None


@pytest.mark.parametrize(
    ("template", "address"),
    [
        ("job:{id}", "job:{job_id}:events"),
        ("prod:job:{id}", "prod:job:{job_id}:events"),
        ("job:{{id}}", None),
    ],
)
def test_the_channel_of_producers_follows_the_key_template(template, address):
    channel = document(Settings(key_template=template))["channels"]["published"]
    assert channel["address"] == address
    assert f"{template}:events" in channel["description"]
    assert ("parameters" in channel) == (address is not None)


def test_addresses_begin_with_the_path_that_the_hub_is_mounted_below():
    channels = document(Settings(), prefix="/push")["channels"]
    assert channels["dashboard"]["address"] == "/push/api/events/ws"
    assert channels["stream"]["address"] == "/push/api/jobs/{job_id}/events/stream"


def test_the_cookie_is_named_as_the_setting_says():
    schemes = document(Settings(session_cookie="sid"))["components"]["securitySchemes"]
    assert schemes["cookie"] == {"type": "httpApiKey", "in": "cookie", "name": "sid"}
