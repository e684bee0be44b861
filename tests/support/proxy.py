"""A door in front of a service: what goes through it can be held up, swallowed or cut.

with Proxy(("127.0.0.1", 5672)) as proxy:
    client.connect(proxy.address)
    proxy.hang()      # old and new connections carry nothing, and nobody is told
    proxy.resume()    # what waited goes on
    proxy.silence()   # the connections of this moment carry nothing ever again; new ones work
    proxy.cut()       # all connections are closed
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

Target = tuple[str, int] | Path
SECONDS = 10.0


class Connection:
    """One client's connection, with its other half to the service."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.silent = False
        self._writers = writers

    def close(self) -> None:
        """Close both halves."""
        for writer in self._writers:
            writer.close()


class Proxy:
    """Listens on a port of this machine, and carries every connection to the target: an address, or a socket's path.

    The port is of the loopback interface, unless `at` is another address of this machine.
    """

    def __init__(self, target: Target, at: str = "127.0.0.1") -> None:
        self._target = target
        self._at = at
        self._loop = asyncio.new_event_loop()
        self._connections: set[Connection] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._accepted: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.host, self.port = self._do(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    @property
    def address(self) -> str:
        """Host and port, as a URL has them."""
        return f"{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections go through it now."""
        return len(self._connections)

    def hang(self) -> None:
        """Carry nothing; new connections are accepted, and nobody answers them."""
        self._do(self._flows.clear)

    def resume(self) -> None:
        """Carry what waited, and what comes."""
        self._do(self._flows.set)

    def silence(self) -> None:
        """Swallow for good whatever is said on the connections of this moment; later ones work."""
        self._do(lambda: [setattr(connection, "silent", True) for connection in self._connections])

    def cut(self) -> None:
        """Close all connections of this moment."""
        self._do(lambda: [connection.close() for connection in list(self._connections)])

    # --- in the thread --------------------------------------------------------------------------------------

    def _do(self, act: Callable[[], Any]) -> Any:
        """Have the thread do it; returns what it returned."""

        async def done() -> Any:
            result = act()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(SECONDS)

    async def _listen(self) -> tuple[str, int]:
        self._flows = asyncio.Event()
        self._flows.set()
        self._server = await asyncio.start_server(self._carry, self._at, 0)
        host, port = self._server.sockets[0].getsockname()
        return host, port

    async def _close(self) -> None:
        self._server.close()
        for pump in list(self._pumps):
            pump.cancel()
        for connection in list(self._connections):
            connection.close()
        for writer in list(self._accepted):
            writer.close()
        await asyncio.sleep(0)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted.add(writer)
        await self._flows.wait()
        try:
            there = await self._reach()
        except OSError:
            writer.close()
            return
        finally:
            self._accepted.discard(writer)
        connection = Connection(writer, there[1])
        self._connections.add(connection)
        pumps = [self._pump(connection, reader, there[1]), self._pump(connection, there[0], writer)]
        tasks = {asyncio.ensure_future(pump) for pump in pumps}
        self._pumps |= tasks
        # A half that is closed closes the other one, unless it is silent: then nobody is told.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        while connection.silent and any(not task.done() for task in tasks):
            await asyncio.wait(tasks)
        for task in tasks:
            task.cancel()
        self._pumps -= tasks
        self._connections.discard(connection)
        connection.close()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection(*self._target)

    async def _pump(self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                if not connection.silent:
                    writer.write(data)
                    await writer.drain()
