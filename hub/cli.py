"""The command line: `push-hub serve`, `demo`, `watch`, `publish`, `token`, `bench`, `settings`.

Invariant: an error of the user's or of the environment is one line on stderr (one for each wrong setting),
with an exit code that is not 0.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import sys
import time
import webbrowser
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from hub.bench import bench
from hub.errors import BrokerUnavailable, HubError, InvalidEvent, InvalidSettings
from hub.job.nesting import TOO_DEEP, is_too_deep
from hub.settings import Settings

app = typer.Typer(
    help="Carries the events of background jobs to browsers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]
RedisUrl = Annotated[str | None, typer.Option(help="Redis URL; HUB_REDIS_URL when not given.")]


def main() -> None:
    """Run the command line. Exit code 2: a setting is invalid; 1: any other HubError."""
    try:
        app()
    except ValidationError as error:
        for problem in error.errors():
            name = "HUB_" + "_".join(map(str, problem["loc"])).upper()
            err.print(f"push-hub: {name}: {problem['msg']}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except HubError as error:
        _fail(str(error))


def _fail(message: str, code: int = 1) -> NoReturn:
    err.print(f"push-hub: {message}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    redis_url: RedisUrl = None,
    workers: Annotated[
        int, typer.Option(help="Processes, one core each; each accepts on its own socket.", min=1)
    ] = 1,
) -> None:
    """Run the hub. Its settings come from HUB_* in the environment; `push-hub settings` lists them."""
    from hub.broker.address import Address
    from hub.serve.server import listen, serve_many
    from hub.serve.server import serve as run
    from hub.web.app import create_app

    settings = Settings(**_given(redis_url=redis_url))
    if not settings.authenticates:
        raise InvalidSettings(
            "expected a key to verify tokens with, got none: set HUB_JWT_SECRET (HS256, at least 32 bytes), "
            "HUB_JWT_PUBLIC_KEY (RS256, PEM text or a file) or HUB_JWKS_URL (RS256, the URL of a key set)"
        )
    Address.parse(settings.redis_url)  # raises for a bad URL; a Redis that is away is waited for
    if Address.parse(settings.redis_url).database:
        err.print(
            "push-hub: HUB_REDIS_URL names a database other than 0; channels are shared by all databases"
        )
    application = create_app(settings)  # with several workers too: a bad setting is reported here, once
    sockets = [listen(host, port, shared=workers > 1)]
    address, actual = sockets[0].getsockname()[:2]
    err.print(f"push-hub: listening on http://{address}:{actual}", highlight=False)
    if workers == 1:
        run(application, settings, sockets)
        return
    sockets += [listen(host, actual, shared=True) for _ in range(workers - 1)]
    serve_many(lambda: create_app(settings), settings, sockets)


@app.command()
def demo(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    redis_url: RedisUrl = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    pace: Annotated[
        float, typer.Option(help="Seconds that a step of a simulated build takes, about.", min=0.01)
    ] = 1.0,
) -> None:
    """Run the hub with simulated builds and a page to watch them. Starts a private Redis by default."""
    from hub.demo.demo import create_demo
    from hub.serve.server import listen
    from hub.serve.server import serve as run

    # Without a handler SIGTERM would leave the private Redis running. `run` installs its own handler later.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack:
        sock = listen(host, port)
        redis_url = _demo_redis(redis_url, stack)
        address, actual = sock.getsockname()[:2]
        url = f"http://{'127.0.0.1' if ip_address(address).is_unspecified else host}:{actual}"
        origins = frozenset({url, f"http://localhost:{actual}", f"http://127.0.0.1:{actual}"})
        application, settings, session = create_demo(redis_url, origins, pace=pace)
        _introduce_demo(url, session)
        if browser:
            webbrowser.open(url)
        run(application, settings, [sock])


def _demo_redis(url: str | None, stack: ExitStack) -> str:
    """The URL of the demo's Redis: `url` if it answers, else of a private server that ends with `stack`."""
    if url is not None:
        asyncio.run(_check_redis(url))
        return url
    from hub.demo.embedded import EmbeddedServer

    server = stack.enter_context(EmbeddedServer())
    err.print(f"Redis      {server.binary} on port {server.port}, private, nothing on disk", highlight=False)
    return server.url


def _introduce_demo(url: str, session: str) -> None:
    stream = f"{url}/api/jobs/atlas-1/events/stream"
    for line in (
        "Builds     three simulated builds that run again and again; one of them fails now and then",
        f"Watch      {url}   (dashboard: {url}/dashboard, API: {url}/docs)",
        f"In a shell curl -N -H 'Authorization: Bearer {session}' {stream}",
        "Ctrl-C ends the demo.",
    ):
        err.print(line, highlight=False, soft_wrap=True)


@app.command()
def publish(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, e.g. build.stage.started.")],
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Fields of the event; a VALUE that is JSON is parsed."),
    ] = None,
    redis_url: RedisUrl = None,
    once: Annotated[
        str | None, typer.Option(help="Idempotency key: publishes at most once for a key.")
    ] = None,
) -> None:
    """Publish one event and print its id."""
    from hub.broker.script import Publication
    from hub.produce.blocking import SyncPublisher

    settings = Settings(**_given(redis_url=redis_url))
    with SyncPublisher.from_url(
        settings.redis_url, publication=Publication.of(settings), strict=True
    ) as publisher:
        out.print(
            str(publisher.emit(job, kind, dict(_field(kind, text) for text in fields or []), once=once)),
            highlight=False,
        )


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


@app.command()
def watch(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    url: Annotated[str, typer.Option(help="URL of the hub.")] = "http://127.0.0.1:8000",
    token: Annotated[str, typer.Option(envvar="HUB_TOKEN", help="Token of the job's owner.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, for pipes.")
    ] = False,
) -> None:
    """Watch a job in the terminal until it ends; resumes by itself. Exit code 0 if it ended with ready."""
    from hub.client.timeline import watch as run

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        status = run(url, job, token, Console(), as_json=as_json)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if status == "ready" else 1)


app.command()(bench)


@app.command()
def settings() -> None:
    """List every setting with the value in force."""
    present = Settings()
    table = Table("setting", "value", "meaning", box=None, pad_edge=False)
    rows = [
        (f"HUB_{name.upper()}", _words(getattr(present, name)), setting.description or "")
        for name, setting in Settings.model_fields.items()
    ]
    if not out.is_terminal:  # rich would wrap the columns of a pipe to 80 characters
        for row in rows:
            typer.echo("\t".join(row))
        return
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _words(value: object) -> str:
    if isinstance(value, frozenset):
        return ",".join(sorted(value))
    # A URL's password is hidden, both before the host and as a query parameter.
    return "" if value is None else re.sub(r"(?<=://)[^/@]*@|(?<=password=)[^&]*", _hidden, str(value))


def _hidden(found: re.Match[str]) -> str:
    return "***@" if found[0].endswith("@") else "***"


async def _check_redis(url: str) -> None:
    from hub.broker.address import bare
    from hub.broker.connect import OUTAGE, for_requests

    client = for_requests(url)
    try:
        await client.ping()
    except OUTAGE as error:
        raise BrokerUnavailable(f"expected Redis at {bare(url)}, got {error}") from error
    finally:
        await client.aclose()


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _field(kind: str, text: str) -> tuple[str, Any]:
    """KEY=VALUE as a field of an event; text stays text where the type says so (`stage=1`)."""
    from hub.job.catalogue import has_text

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidSettings(f"expected KEY=VALUE, got {text!r}")
    if is_too_deep(value):
        raise InvalidEvent(TOO_DEEP)
    if has_text(kind, name):
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
