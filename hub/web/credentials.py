"""Which token a request brings, and whether the page that made the request may use its cookie."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from hub.settings import Settings


class ForeignPage(Exception):
    """The cookie does not count: a page of another origin made this request."""


def token_of(connection: HTTPConnection, settings: Settings) -> str | None:
    """Returns the token of the Bearer header, else of the session cookie, else None. Raises ForeignPage."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    cookie = connection.cookies.get(settings.session_cookie)
    if cookie and not _may_use_cookie(connection, settings):
        raise ForeignPage
    return cookie


def _may_use_cookie(connection: HTTPConnection, settings: Settings) -> bool:
    """Returns True if the page that made this request may use the cookie. A browser sends it for any page.

    A WebSocket is not bound by the same-origin policy, and CORS would only keep a page from reading an
    answer, not the browser from making the request. So the page's origin must be the hub's own or on the
    list. A same-origin GET (EventSource, fetch) has no Origin header, and neither has `<script src>` of a
    sibling subdomain, to which a browser gives the cookie too: there Fetch Metadata decides
    (https://www.w3.org/TR/fetch-metadata/). Browsers that do not send it are older than 2023.
    """
    origin = connection.headers.get("origin")
    if origin is not None:
        return origin in settings.allowed_origins or origin in own_origins(connection)
    if connection.scope["type"] == "websocket":
        return False  # every browser sends an Origin with it
    return connection.headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def own_origins(connection: HTTPConnection) -> tuple[str, ...]:
    """The origin under which the browser asked: host and scheme, as the proxy forwards them.

    Without `X-Forwarded-Proto` a proxy may have taken the TLS away, so both schemes count. A page cannot set
    that header: its browser would ask for permission first.
    """
    host = connection.headers.get("host", "").lower()
    proto = connection.headers.get("x-forwarded-proto")
    if connection.scope["scheme"] in ("https", "wss") or proto == "https":
        return (f"https://{host}",)
    return (f"http://{host}",) if proto else (f"http://{host}", f"https://{host}")
