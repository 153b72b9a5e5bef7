"""The command: `push-hub serve`, `demo`, `watch`, `publish`, `token`, `settings`.

Invariant: what is wrong is one clear line on stderr and an exit code that is not 0.
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
    help="The hub between background jobs and browsers.", no_args_is_help=True, pretty_exceptions_enable=False
)
out = Console()
err = Console(stderr=True)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]
RedisUrl = Annotated[str | None, typer.Option(help="Redis URL; without it HUB_REDIS_URL.")]


def main() -> None:
    """Run the command."""
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
    workers: Annotated[int, typer.Option(help="Processes; each accepts on a socket of its own.", min=1)] = 1,
) -> None:
    """Run the hub. Settings come from HUB_* (see `push-hub settings`)."""
    from hub.broker.address import Address
    from hub.serve.server import listen, serve_many
    from hub.serve.server import serve as run
    from hub.web.app import create_app

    settings = Settings(**_given(redis_url=redis_url))
    if not settings.authenticates:
        raise InvalidSettings(
            "expected a way to tell who a viewer is, got none: set HUB_JWT_SECRET (HS256, at least 32 bytes), "
            "HUB_JWT_PUBLIC_KEY (RS256, PEM text or a file) or HUB_JWKS_URL (RS256, published keys)"
        )
    Address.parse(settings.redis_url)  # whether it answers is another matter: then the hub waits, not ready
    application = create_app(settings)  # also with several workers: what is wrong with it is said here, once
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
    pace: Annotated[float, typer.Option(help="Seconds per step of a simulated build.", min=0.01)] = 1.0,
) -> None:
    """Run the hub with simulated builds and a page to watch them; needs nothing else."""
    from hub.demo.demo import create_demo
    from hub.demo.embedded import EmbeddedServer
    from hub.serve.server import listen
    from hub.serve.server import serve as run

    # Until the server has its own handler: the private Redis must end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack:
        sock = listen(host, port)
        actual = sock.getsockname()[1]
        if redis_url is None:
            server = stack.enter_context(EmbeddedServer())
            redis_url = server.url
            err.print(
                f"Redis      {server.binary} on port {server.port}, private, nothing on disk", highlight=False
            )
        else:
            asyncio.run(_check_redis(redis_url))
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "127.0.0.1") else host  # noqa: S104
        url = f"http://{shown}:{actual}"
        origins = frozenset({url, f"http://localhost:{actual}", f"http://127.0.0.1:{actual}"})
        application, settings, session = create_demo(redis_url, origins, pace=pace)
        err.print("Builds     three simulated ones, again and again; one fails now and then", highlight=False)
        err.print(f"Watch      {url}   (dashboard: {url}/dashboard, API: {url}/docs)", highlight=False)
        stream = f"{url}/api/jobs/atlas-1/events/stream"
        err.print(
            f"In a shell curl -N -H 'Authorization: Bearer {session}' {stream}",
            highlight=False,
            soft_wrap=True,
        )
        err.print("Ctrl-C ends it.", highlight=False)
        if browser:
            webbrowser.open(url)
        run(application, settings, [sock])


@app.command()
def publish(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, e.g. build.stage.started.")],
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Fields; JSON values are read.")
    ] = None,
    redis_url: RedisUrl = None,
    once: Annotated[str | None, typer.Option(help="Idempotency key: publish at most once.")] = None,
) -> None:
    """Publish one event and print its id."""
    from hub.broker.script import Publication
    from hub.produce.publisher import SyncPublisher

    settings = Settings(**_given(redis_url=redis_url))
    with SyncPublisher.from_url(
        settings.redis_url, publication=Publication.of(settings), strict=True
    ) as publisher:
        out.print(str(publisher.emit(job, kind, dict(map(_field, fields or [])), once=once)), highlight=False)


@app.command()
def token(
    user: Annotated[str, typer.Option(help="The user the token speaks for.")],
    lifetime: Annotated[int, typer.Option(help="Seconds it is good for.", min=1)] = 3600,
) -> None:
    """Print a token signed with HUB_JWT_SECRET, for trying things out."""
    import jwt

    settings = Settings()
    if settings.jwt_secret is None:
        raise InvalidSettings(
            "expected HUB_JWT_SECRET, got none; tokens of other keys come from who has them"
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
    url: Annotated[str, typer.Option(help="Where the hub is.")] = "http://127.0.0.1:8000",
    token: Annotated[str, typer.Option(envvar="HUB_TOKEN", help="A token of the job's owner.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for pipes.")] = False,
) -> None:
    """Watch a job in the terminal until it ends; resumes by itself. Exit code 1 when it failed."""
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
    """List every setting with its present value."""
    present = Settings()
    table = Table("setting", "value", "what it is", box=None, pad_edge=False)
    rows = [
        (f"HUB_{name.upper()}", _words(getattr(present, name)), setting.description or "")
        for name, setting in Settings.model_fields.items()
    ]
    if not out.is_terminal:  # a pipe gets everything, and no columns
        for row in rows:
            typer.echo("\t".join(row))
        return
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _words(value: object) -> str:
    if isinstance(value, frozenset):
        return ",".join(sorted(value))
    # No password of a URL, wherever it stands in it.
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


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidSettings(f"expected key=value, got {text!r}")
    if is_too_deep(value):
        raise InvalidEvent(TOO_DEEP)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
