"""The stream endpoint as the first requirement has it: on fakeredis, with both dependencies overridden."""

from __future__ import annotations

import json
from collections.abc import Iterator

import fakeredis
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from hub import Settings, User, create_app, get_redis, require_auth
from tests.support.sse import parse


@pytest.fixture
def fake() -> fakeredis.FakeServer:
    """The server that holds the jobs."""
    return fakeredis.FakeServer()


@pytest.fixture
def app(fake: fakeredis.FakeServer) -> FastAPI:
    """The application with a signed-in user and a fake Redis."""
    client = fakeredis.FakeAsyncRedis(server=fake)
    app = create_app(Settings())
    app.dependency_overrides[require_auth] = lambda: User("user-1", "user-1@example.com")
    app.dependency_overrides[get_redis] = lambda: client
    return app


@pytest.fixture
def http(app: FastAPI) -> Iterator[TestClient]:
    """A client of the application."""
    with TestClient(app) as client:
        yield client


def add_job(fake: fakeredis.FakeServer, job: str, status: str, user: str = "user-1") -> None:
    """Write a job as an application does."""
    fields = {"status": status, "user_id": user, "project_id": "project-1"}
    fakeredis.FakeRedis(server=fake).hset(f"job:{job}", mapping=fields)


def test_events_stream_returns_404_for_unknown_job(http):
    """A job that does not exist is not found."""
    answer = http.get("/api/jobs/nothing/events/stream")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "Job not found"}


def test_events_stream_returns_404_for_wrong_user(http, fake):
    """Another user's job gets the same answer as a job that does not exist."""
    add_job(fake, "theirs", "code", user="user-2")
    unknown = http.get("/api/jobs/nothing/events/stream")
    theirs = http.get("/api/jobs/theirs/events/stream")
    assert theirs.status_code == 404
    assert (theirs.content, theirs.headers) == (unknown.content, unknown.headers)


def assert_final_event_and_close(http, fake, status):
    add_job(fake, "done", status)
    answer = http.get("/api/jobs/done/events/stream")  # returns, so the stream closed
    assert answer.status_code == 200
    data, end = parse(answer.content)
    assert data.event == "message"
    assert data.data == json.dumps({"type": "build.stage.started", "status": status, "job_id": "done"})
    assert data.id == "0-0"
    assert (end.event, end.json) == ("end", {"status": status})


def test_events_stream_terminal_job_emits_final_and_closes(http, fake):
    """A job that is ready gives one event that says so, and the stream is closed."""
    assert_final_event_and_close(http, fake, "ready")


def test_events_stream_terminal_failed_job(http, fake):
    """A job that has failed gives one event that says so, and the stream is closed."""
    assert_final_event_and_close(http, fake, "failed")


def test_events_stream_returns_streaming_response(app, fake):
    """A running job is streamed: headers and first bytes at once, events as they come, closed at its end."""
    add_job(fake, "runs", "code")
    with TestClient(app) as http, http.stream("GET", "/api/jobs/runs/events/stream") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"].startswith("no-cache")
        assert answer.headers["connection"] == "keep-alive"
        assert answer.headers["x-accel-buffering"] == "no"
        lines = answer.iter_lines()
        assert next(lines).startswith("retry: ")
        assert next(lines).startswith("id: ")
        assert next(lines) == "event: hello"
        assert json.loads(next(lines).removeprefix("data: "))["attempt"] == 1
        worker = fakeredis.FakeRedis(server=fake)
        event = {"type": "build.stage.started", "stage": "code", "status": "code"}
        worker.publish("job:runs:events", json.dumps(event))
        worker.publish("job:runs:events", json.dumps({**event, "status": "ready"}))
        messages = parse("\n".join(["", *lines, ""]))
    assert [message.json for message in messages[:2]] == [event, {**event, "status": "ready"}]
    assert messages[2].event == "end"


def test_events_stream_works_without_a_lifespan(app, fake):
    """A test client that never runs the lifespan, and uses a new event loop per request, is served too."""
    add_job(fake, "done", "ready")
    http = TestClient(app)
    assert [http.get("/api/jobs/done/events/stream").status_code for _ in range(3)] == [200] * 3
