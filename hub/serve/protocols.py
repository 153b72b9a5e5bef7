"""Chooses uvicorn's protocol classes: ours, which hand sockets over, or uvicorn's own where ours cannot work.

Invariant: a uvicorn that has changed costs speed and nothing else: the portable wire sends the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from inspect import getattr_static

logger = logging.getLogger("hub")

Protocols = tuple[type | str, type | str]
"""The values of uvicorn's options `http` and `ws`."""

UVICORNS_OWN: Protocols = ("httptools", "websockets-sansio")

_HTTP_SETS = """connections flow pipeline tasks transport parser cycle headers scope loop app root_path
limit_concurrency client access_log access_logger logger server_state ws_protocol_class"""
_HTTP_HAS = """connection_made connection_lost data_received on_message_begin on_headers_complete
send_400_response handle_websocket_upgrade _unset_keepalive_if_required on_body on_message_complete
pause_writing resume_writing _start_asgi_task"""
_CYCLE_SETS = """scope expected_content_length message_event response_started response_complete disconnected chunked_encoding
more_body keep_alive"""
_WEBSOCKET_SETS = """connections transport conn queue frames loop writable handshake_initiated
handshake_complete close_sent disconnected read_paused curr_msg_data_type close_timeout"""
_WEBSOCKET_HAS = """connection_lost data_received handle_connect handle_ping handle_pong handle_cont
handle_parser_exception send_receive_event_to_app pause_writing resume_writing stop_keepalive send
send_keepalive_ping keepalive_timeout schedule_ping run_asgi"""


def protocols() -> Protocols:
    """Returns the classes to serve with. If they are uvicorn's own, one line in the log says why."""
    try:
        _check_uvicorn()
        from hub.transports.uvicorn_door import DoorHttpProtocol
        from hub.transports.uvicorn_websocket import HandoffWebSocketProtocol
    except ImportError as error:
        logger.warning("sockets are not handed over, the portable wire serves: %s", error)
        return UVICORNS_OWN
    return DoorHttpProtocol, HandoffWebSocketProtocol


def _check_uvicorn() -> None:
    """Raises ImportError with all attributes that our subclasses use and this uvicorn lacks."""
    if missing := sorted(_missing()):
        raise ImportError(f"uvicorn has no {', '.join(missing)}")


def _missing() -> Iterator[str]:
    """Yields what our subclasses use and this uvicorn lacks. ImportError if a class is gone."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    yield from _lacks(HttpToolsProtocol, sets=_HTTP_SETS, has=_HTTP_HAS)
    yield from _lacks(RequestResponseCycle, sets=_CYCLE_SETS, has="send run_asgi")
    yield from _lacks(WebSocketsSansIOProtocol, sets=_WEBSOCKET_SETS, has=_WEBSOCKET_HAS)


def _lacks(kind: type, *, sets: str, has: str) -> Iterator[str]:
    """Yields the names that `kind` lacks: of `sets`, assigned in `__init__`, and of `has`, found on the
    class.

    The assigned ones are read from the code of `__init__`, because making an instance needs a running server.
    """
    assigned = getattr_static(kind, "__init__").__code__.co_names
    for name in sets.split():
        if name not in assigned and not hasattr(kind, name):
            yield f"{kind.__name__}.{name}"
    for name in has.split():
        if not hasattr(kind, name):
            yield f"{kind.__name__}.{name}"
