"""Which protocol classes uvicorn is given: ours, which hand sockets over, or its own where it is not the uvicorn we know.

Invariant: a uvicorn that changed under us costs speed and nothing else. The portable wire then serves, with the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

log = logging.getLogger("hub")

Protocols = tuple[type | str, type | str]
"""uvicorn's `http` and `ws`."""

UVICORNS_OWN: Protocols = ("httptools", "websockets-sansio")

_HTTP_SETS = "connections flow pipeline tasks transport parser cycle headers scope loop"
_HTTP_HAS = """connection_made connection_lost data_received on_message_begin on_headers_complete send_400_response
handle_websocket_upgrade _unset_keepalive_if_required"""
_CYCLE_SETS = "scope message_event response_started response_complete disconnected chunked_encoding"
_WEBSOCKET_SETS = """connections transport conn queue frames loop writable handshake_initiated handshake_complete close_sent
disconnected read_paused curr_msg_data_type close_timeout"""
_WEBSOCKET_HAS = """connection_lost data_received handle_connect handle_ping handle_pong handle_cont handle_parser_exception
send_receive_event_to_app pause_writing resume_writing stop_keepalive send"""


def protocols() -> Protocols:
    """The classes to serve with. Says in one line of the log when they are uvicorn's own, and why."""
    try:
        if missing := sorted(_missing()):
            raise ImportError(f"uvicorn has no {', '.join(missing)}")  # noqa: TRY301  # one way out for both
        from hub.transports.uvicorn_http import HandoffHttpProtocol
        from hub.transports.uvicorn_websocket import HandoffWebSocketProtocol
    except ImportError as error:
        log.warning("sockets are not handed over, the portable wire serves: %s", error)
        return UVICORNS_OWN
    return HandoffHttpProtocol, HandoffWebSocketProtocol


def _missing() -> Iterator[str]:
    """What our subclasses lean on and uvicorn does not have. Raises ImportError."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    yield from _lacks(HttpToolsProtocol, sets=_HTTP_SETS, has=_HTTP_HAS)
    yield from _lacks(RequestResponseCycle, sets=_CYCLE_SETS, has="send")
    yield from _lacks(WebSocketsSansIOProtocol, sets=_WEBSOCKET_SETS, has=_WEBSOCKET_HAS)


def _lacks(kind: type, *, sets: str, has: str) -> Iterator[str]:
    """`sets` are attributes that `__init__` gives an instance, read from its code: making one would need a running server."""
    given = kind.__init__.__code__.co_names  # type: ignore[misc]  # of the class itself, on purpose
    for name in sets.split():
        if name not in given and not hasattr(kind, name):
            yield f"{kind.__name__}.{name}"
    for name in has.split():
        if not hasattr(kind, name):
            yield f"{kind.__name__}.{name}"
