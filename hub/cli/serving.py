"""`push-hub serve` and `push-hub demo`: the commands that run a hub."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
import webbrowser
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Annotated

import typer

from hub.cli.terminal import Host, Port, RedisUrl, app, err, given
from hub.errors import BrokerUnavailable, InvalidSettings
from hub.settings import Settings


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

    settings = Settings(**given(redis_url=redis_url))
    if not settings.authenticates:
        raise InvalidSettings(
            "expected a key to verify tokens with, got none: set HUB_JWT_SECRET (at least 32 bytes), "
            "HUB_JWT_PUBLIC_KEY (PEM text or a file) or HUB_JWKS_URL (the URL of a key set)"
        )
    Address.parse(settings.redis_url)  # raises for a bad URL; a Redis that is away is waited for
    if Address.parse(settings.redis_url).database:
        err.print(
            "push-hub: HUB_REDIS_URL names a database other than 0; channels are shared by all databases"
        )
    _warn(settings)
    application = create_app(settings)  # with several workers too: a bad setting is reported here, once
    sockets = [listen(host, port, shared=workers > 1)]
    address, actual = sockets[0].getsockname()[:2]
    err.print(f"push-hub: listening on http://{address}:{actual}", highlight=False)
    admin = _admin_socket(settings, shared=workers > 1)
    if workers == 1:
        run(application, settings, sockets, admin=admin)
        return
    sockets += [listen(host, actual, shared=True) for _ in range(workers - 1)]
    admins = []
    if admin is not None:
        place = settings.admin_host, admin.getsockname()[1]
        admins = [admin, *(listen(*place, shared=True) for _ in range(workers - 1))]
    serve_many(lambda: create_app(settings), settings, sockets, admins=admins)


def _warn(settings: Settings) -> None:
    """Say what is wrong with the settings; `push-hub doctor` says more."""
    from hub.cli.findings import of_settings

    for one in of_settings(settings, os.environ):
        words = f"push-hub: {one.what}: {one.why}; change: {one.change}"
        err.print(words, markup=False, highlight=False, soft_wrap=True)


def _admin_socket(settings: Settings, *, shared: bool) -> socket.socket | None:
    """The socket of the operator's endpoints. Raises InvalidSettings if
    the port that was asked for is in use.
    """
    from hub.serve.server import listen

    if not settings.admin_port:
        return None
    try:
        if shared:
            listen(settings.admin_host, settings.admin_port).close()  # another hub could share it, too
        sock = listen(settings.admin_host, settings.admin_port, shared=shared)
    except InvalidSettings as error:
        if "admin_port" in settings.model_fields_set:
            raise
        err.print(
            f"push-hub: no metrics: {error}; HUB_ADMIN_PORT names another port",
            highlight=False,
            soft_wrap=True,
        )
        return None
    err.print(
        f"push-hub: metrics on http://{settings.admin_host}:{settings.admin_port}/metrics", highlight=False
    )
    return sock


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
        is_open = not ip_address(address).is_loopback
        url = f"http://{_reachable(address)}:{actual}"
        made = create_demo(redis_url, pace=pace)
        admin = listen("127.0.0.1", 0)
        key = f"?key={made.key}" if is_open else ""
        _introduce_demo(url, key, made.session, f"http://127.0.0.1:{admin.getsockname()[1]}")
        if browser:
            webbrowser.open(f"{url}/{key}")
        run(made.app, made.settings, [sock], admin=admin)


def _reachable(address: str) -> str:
    """The address to type into a browser for a socket that listens on `address`."""
    if not ip_address(address).is_unspecified:
        return f"[{address}]" if ":" in address else address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it asks the kernel which address it would use
        except OSError:
            return "127.0.0.1"
        name: str = probe.getsockname()[0]
        return name


def _demo_redis(url: str | None, stack: ExitStack) -> str:
    """The URL of the demo's Redis: `url` if it answers, else of a private server that ends with `stack`."""
    if url is not None:
        asyncio.run(_check_redis(url))
        return url
    from hub.demo.embedded import EmbeddedServer

    server = stack.enter_context(EmbeddedServer(password=secrets.token_hex(16)))
    err.print(f"Redis      {server.binary} on port {server.port}, private, nothing on disk", highlight=False)
    return server.url


def _introduce_demo(url: str, key: str, session: str, admin: str) -> None:
    stream = f"{url}/api/jobs/atlas-1/events/stream"
    for line in (
        "Builds     three simulated builds that run again and again; one of them fails now and then",
        f"Watch      {url}{key and '/' + key}   (dashboard: {url}/dashboard{key})",
        f"Operate    {admin}/admin   ({admin}/docs, {admin}/metrics)",
        f"In a shell curl -N -H 'Authorization: Bearer {session}' {stream}",
        "Ctrl-C ends the demo.",
    ):
        err.print(line, highlight=False, soft_wrap=True)


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
