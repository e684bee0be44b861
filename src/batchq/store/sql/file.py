"""SQLite's file: how it is made, and whether it is still the one that was opened and is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.engine import URL

from batchq.config import masked, private_file
from batchq.errors import DatabaseLost, DatabaseRefuses

# Endings of the files that SQLite keeps while one is open: the file itself, its log, the log's index.
BESIDE = ("", "-wal", "-shm")
# SQLite takes no path of more than 512 bytes, and puts something behind it.
MOST_BYTES = 500
SHORTER = f"Set BATCHQ_HOME or BATCHQ_DATABASE_URL to a path of at most {MOST_BYTES} bytes."
OPENED = "Let this user read and write that file and its folder, or set BATCHQ_DATABASE_URL to another."
MENDED = "Stop all that uses it; then put back a backup, or try `sqlite3 FILE .recover`."
# Above this size it would take more than a moment to read all of it.
QUICK_BYTES = 2**28


class File:
    """The file of one database: it is made if it is missing at first, and never made again."""

    def __init__(self, url: URL) -> None:
        name = url.database
        self._url = masked(str(url))
        self.path: Path | None = None
        if url.get_backend_name() == "sqlite" and name and name != ":memory:" and not name.startswith("file:"):
            self.path = Path(name).absolute()
        self._seen: tuple[int, int] | None = None
        self.bears_garbage = False  # whether bytes that are no text have been met in it

    def make(self) -> None:
        """Make the file for this user alone, unless it is there; raises DatabaseRefuses, DatabaseLost."""
        if self.path is None:
            return
        self.check()
        if len(os.fsencode(self.path)) > MOST_BYTES:
            raise DatabaseRefuses(url=self._url, reason="its path is too long for SQLite", advice=SHORTER)
        try:
            private_file(self.path)
        except OSError as error:
            raise DatabaseRefuses(url=self._url, reason=error.strerror or error, advice=OPENED) from error

    def opened(self) -> None:
        """Remember which file the first connection opened; raises DatabaseLost if a later one opened another."""
        if self.path is not None and self._seen is None:
            with suppress(OSError):
                self._seen = _identity(self.path)
        self.check()

    def check(self) -> None:
        """Raise DatabaseLost if the file that was opened, its -wal or its -shm is not there any more."""
        if self.path is None or self._seen is None:
            return
        try:
            same = _identity(self.path) == self._seen
        except (FileNotFoundError, NotADirectoryError):
            same = False
        except OSError:
            return
        if not same or any(True for _ in deleted(self.path)):
            raise DatabaseLost(url=self._url)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def deleted(path: Path, pid: int | str = "self") -> Iterator[str]:
    """The files of this database that a process has open although they were deleted; none where /proc hides it.

    SQLite deletes none of them while a process has the database open, so somebody else did.
    """
    names = {f"{os.path.realpath(path)}{end} (deleted)" for end in BESIDE}
    with suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if (link := str(each.readlink())) in names:
                    yield link.removesuffix(" (deleted)")


def holders(path: Path) -> Iterator[int]:
    """The pids of the processes seen from here that work on files of this database that were deleted."""
    with suppress(OSError):
        for pid in sorted(int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()):
            if any(True for _ in deleted(path, pid)):
                yield pid


def damage(tx: Connection, path: Path) -> str | None:
    """The first damage that SQLite finds by reading all of the file; None without one, and for a large file."""
    if path.stat().st_size > QUICK_BYTES:
        return None
    found = str(tx.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
    return None if found == "ok" else found.replace("\n", " ")
