"""`push-hub token`: tokens, to try the hub by hand."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from hub.cli.terminal import app, out
from hub.errors import InvalidSettings
from hub.settings import Settings


@app.command()
def token(
    user: Annotated[str, typer.Option(help="User id that the token signs in.")],
    lifetime: Annotated[int, typer.Option(help="Seconds until the token expires.", min=1)] = 3600,
) -> None:
    """Print a token signed with HUB_JWT_SECRET, to try the hub by hand."""
    import jwt

    settings = Settings()
    if settings.jwt_secret is None:
        raise InvalidSettings(
            "expected HUB_JWT_SECRET, got none: an RS256 token must come from the private key's owner"
        )
    claims: dict[str, Any] = {"sub": user, "exp": int(time.time()) + lifetime}
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    if settings.authorized_parties:
        claims["azp"] = min(settings.authorized_parties)
    out.print(
        jwt.encode(claims, settings.jwt_secret.get_secret_value(), "HS256"), soft_wrap=True, highlight=False
    )
