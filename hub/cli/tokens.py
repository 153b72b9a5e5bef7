"""`push-hub token`: makes tokens to try the hub by hand, and says why one is refused."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Annotated, Any

import typer

from hub.cli.terminal import app, fail, out
from hub.errors import InvalidSettings
from hub.settings import Settings


@app.command()
def token(
    user: Annotated[str | None, typer.Option(help="User id that the token signs in.")] = None,
    lifetime: Annotated[int, typer.Option(help="Seconds until the token expires.", min=1)] = 3600,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Say what the settings make of a token on stdin.")
    ] = False,
) -> None:
    """Print a token signed with HUB_JWT_SECRET, to try the hub by hand; or inspect one."""
    import jwt

    settings = Settings()
    if inspect:
        asyncio.run(_inspect(sys.stdin.read().strip(), settings))
        return
    if user is None:
        raise InvalidSettings("expected --user, got none")
    if settings.jwt_secret is None:
        raise InvalidSettings(
            "expected HUB_JWT_SECRET, got none: a token must come from the private key's owner"
        )
    now = int(time.time())
    claims: dict[str, Any] = {settings.user_claim: user, "iat": now, "exp": now + lifetime}
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    if settings.authorized_parties:
        claims["azp"] = min(settings.authorized_parties)
    out.print(
        jwt.encode(claims, settings.jwt_secret.get_secret_value(), "HS256"), soft_wrap=True, highlight=False
    )


async def _inspect(token: str, settings: Settings) -> None:
    """Print what the token says of itself, and what the settings make of it. Exit code 1 if it is refused."""
    from hub.web.auth import Authenticator, Refused, described

    typer.echo(f"It says: {described(token)}")
    try:
        user = await Authenticator(settings).check(token)
    except Refused as refused:
        fail(
            f"this token is refused: {refused.reason}"
            + (f" ({refused.__cause__})" if refused.__cause__ else "")
        )
    typer.echo(f"It signs in {user.user_id!r} for {user.expires - time.time():.0f} s from now.")
