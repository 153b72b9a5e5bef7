"""Inputs that people's reports led to, each as a law on a real Redis and on both transports."""

from __future__ import annotations

import uuid

import pytest

from tests.support.quiet import nothing_is_logged_as_an_error

__all__ = ["nothing_is_logged_as_an_error"]


@pytest.fixture(params=["sse", "websocket"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both."""
    return request.param


@pytest.fixture
def job() -> str:
    """An id that no test had before."""
    return uuid.uuid4().hex
