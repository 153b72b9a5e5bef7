"""`authenticate`: a client renews its credentials on its open WebSocket.

Invariant: a socket stays its user's. A token that is not valid, or another user's, ends it (4401).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import replace

from hub.engine.caller import Caller
from hub.engine.hub import Hub
from hub.errors import HubError
from hub.transports.answers import answer_text, error_text
from hub.transports.commands import Command

Verify = Callable[[str], Awaitable[Caller | None]]
"""Returns whom a token signs in, None for a token that is not valid. Raises KeysUnavailable."""


async def renew(
    hub: Hub, verify: Verify | None, caller: Caller, command: Command, accept: Callable[[Caller], None]
) -> bytes | None:
    """The answer to `authenticate`; None if the socket must end. `accept`
    gets the caller with new credentials.
    """
    if verify is None:
        return error_text("unsupported", "expected a hub that verifies tokens itself", command.ref)
    if command.token is None:
        return error_text("malformed", "expected a token, got none", command.ref)
    try:
        found = await verify(command.token)
    except HubError as error:
        return error_text("unavailable", error.detail, command.ref)
    if found is None or found.user != caller.user or hub.revocations.cover(found):
        return None
    accept(replace(caller, issued=found.issued, expires=found.expires, shared=found.shared))
    expires = found.expires - hub.settings.jwt_leeway
    return answer_text("authenticated", command.ref, expires=expires if math.isfinite(expires) else None)
