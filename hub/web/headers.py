"""Gives FastAPI's own answers (404, 405, 422) and those of CORS the headers of every answer.

An exception handler and not a middleware, which would cost each join 10 us.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from hub.transports.headers import SAFE


class SafeCors(CORSMiddleware):
    """CORS, whose preflight answers have the headers too."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """As Starlette's."""
        return _safe(super().preflight_response(request_headers))


def add_safe_headers(app: FastAPI) -> None:
    """To the answers of `app` that no endpoint made."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "it is registered for these"
    return _safe(await http_exception_handler(request, error))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "it is registered for these"
    return _safe(await request_validation_exception_handler(request, error))


def _safe(response: Response) -> Response:
    for name, value in SAFE.items():
        response.headers.setdefault(name, value)
    return response
