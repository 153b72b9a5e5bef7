"""Who is an operator: whoever comes on the admin port and is no page of another site, or has the token."""

from __future__ import annotations

import hmac
from ipaddress import ip_address

from starlette.requests import HTTPConnection
from starlette.types import Scope

from hub.web.context import Context, get_context


def is_operator(scope: Scope) -> bool:
    """Returns True for a request, or a WebSocket, that may have the operator's endpoints."""
    if scope["type"] not in ("http", "websocket"):
        return False
    request = HTTPConnection(scope)
    context = get_context(request)
    return (_is_on_admin_port(scope, context) and not _is_foreign_page(request)) or _has_token(
        request, context
    )


def _is_on_admin_port(scope: Scope, context: Context) -> bool:
    """By the address of the socket, which no header can change."""
    server = scope.get("server")
    return server is not None and server[1] in context.admin_ports


def _is_foreign_page(request: HTTPConnection) -> bool:
    """Returns True for a request that a page of another site makes in the operator's browser.

    Also where its name was made to point to this machine (DNS rebinding): a page of ours has a numeric
    address.
    """
    headers = request.headers
    if "origin" not in headers and "sec-fetch-site" not in headers:
        return False  # no browser of this decade
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    host = request.url.hostname or ""
    try:
        ip_address(host)
    except ValueError:
        return host != "localhost"
    return "origin" in headers and headers["origin"].partition("://")[2] != headers.get("host")


def _has_token(request: HTTPConnection, context: Context) -> bool:
    expected = context.settings.admin_token
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if expected is None or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), expected.get_secret_value().encode())
