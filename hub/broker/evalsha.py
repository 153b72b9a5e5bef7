"""Runs the Lua scripts (script.py has their arguments and answers) on the clients of connect.py.

Invariant: a script is sent by its hash, and loaded where the server does not know it.
"""

from __future__ import annotations

from functools import partial
from inspect import Parameter, signature
from typing import cast

from redis import ConnectionPool
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError

from hub.broker import multiplexed
from hub.broker.blocking_cluster import BlockingCluster
from hub.broker.cluster import Cluster
from hub.broker.connect import AsyncRedis, Nodes, PerLoop, SyncNodes, SyncRedis, at, at_sync

_get = signature(ConnectionPool.get_connection).parameters.get("command_name")
_FOR = ("EVALSHA",) if _get is not None and _get.default is Parameter.empty else ()
"""What a pool is asked with: before 5.3 redis-py wants to know the command, since then it warns of it."""


class Script:
    """A Lua script on an async client: runs EVALSHA, and loads the script if the server does not know it."""

    def __init__(self, clients: PerLoop, text: str) -> None:
        self._clients = clients
        self._script = script_on(clients.given, text)

    async def run(self, keys: list[str], args: list[str | int]) -> list[bytes | str]:
        """The script's answer, for script.py to read."""
        return await at(self._clients.get(), keys[0], partial(self._ask, keys, args))

    async def _ask(self, keys: list[str], args: list[str | int], client: AsyncRedis) -> list[bytes | str]:
        command = ("EVALSHA", self._script.sha, len(keys), *keys, *args)
        (answer,) = await multiplexed.ask(client, [command])
        if isinstance(answer, NoScriptError):
            await client.script_load(self._script.script)
            (answer,) = await multiplexed.ask(client, [command])
        if isinstance(answer, Exception):
            raise answer
        return cast(list[bytes | str], answer)


class SyncScript:
    """A Lua script on a blocking client. It is sent on a connection of the client's pool, for redis-py's own
    way of running a script costs a blocking producer a tenth of its events."""

    def __init__(self, nodes: SyncNodes, text: str) -> None:
        self._nodes = nodes
        one = nodes.any() if isinstance(nodes, BlockingCluster) else nodes
        self._script = one.register_script(text)

    def run(self, keys: list[str], args: list[str | int]) -> list[bytes | str]:
        """Run the script; returns its raw answer, which the functions of script.py interpret."""
        return at_sync(self._nodes, keys[0], partial(self._ask, keys, args))

    def _ask(self, keys: list[str], args: list[str | int], client: SyncRedis) -> list[bytes | str]:
        try:
            return self._send(keys, args, client)
        except NoScriptError:
            client.script_load(self._script.script)
            return self._send(keys, args, client)

    def _send(self, keys: list[str], args: list[str | int], client: SyncRedis) -> list[bytes | str]:
        pool = client.connection_pool
        connection = pool.get_connection(*_FOR)
        data = connection.pack_command("EVALSHA", self._script.sha, len(keys), *keys, *args)

        def send() -> list[bytes | str]:
            connection.send_packed_command(data)
            return cast(list[bytes | str], connection.read_response())

        try:
            return connection.retry.call_with_retry(send, lambda _: connection.disconnect())
        finally:
            pool.release(connection)


def script_on(nodes: Nodes, text: str) -> AsyncScript:
    """A script that can be run on every client of `nodes`."""
    one = nodes.any() if isinstance(nodes, Cluster) else nodes
    return one.register_script(text)
