"""SQLite: how its file is opened, whether it is still the file that was opened, and what its refusals mean."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from batchq.config import masked, private_file
from batchq.errors import DatabaseLost, DatabaseRefuses

# What SQLite itself keeps beside the file while it is open.
BESIDE = ("", "-wal", "-shm")
ANOTHER = "Put back the file that belongs there, or set BATCHQ_DATABASE_URL to another one; then start again."
MENDED = "Stop all that uses it; then put back a backup, or try `sqlite3 FILE .recover`."
# What SQLite may refuse, by the name of its error; and what helps.
REFUSALS = {
    "SQLITE_NOTADB": ANOTHER,
    "SQLITE_CORRUPT": MENDED,
    "SQLITE_CANTOPEN": "Let this user read and write that file and its folder, or set BATCHQ_DATABASE_URL to another.",
    "SQLITE_PERM": "Let this user read and write that file and its folder, or set BATCHQ_DATABASE_URL to another.",
    "SQLITE_READONLY": "Let this user write that file and its folder, or set BATCHQ_DATABASE_URL to another.",
    "SQLITE_IOERR_SHORT_READ": MENDED,
    "SQLITE_FULL": "Free some room on its disk: what waits goes on by itself then.",
    "SQLITE_IOERR": "Look whether its disk is well and has room; SQLite cannot work on a network's file system.",
}
# A schema that is not what its version says: a table or column that is missing, or of somebody else.
NOT_OURS = ("no such table", "no such column", "has no column", "already exists", "may not be modified")
NOT_OURS_ADVICE = "Its tables are not those of batchq: set BATCHQ_DATABASE_URL to another file, or put back a backup."
# SQLite takes no path of more than 512 bytes, and puts something behind it.
MOST_BYTES = 500
SHORTER = f"Set BATCHQ_HOME or BATCHQ_DATABASE_URL to a path of at most {MOST_BYTES} bytes."
# Above this size it would take more than a moment to read all of it.
QUICK_BYTES = 2**28
# A writer takes the lock at once; a reader that asked for it later would fail, however patient.
BEGIN = "BEGIN IMMEDIATE"
# No waiting mends these.
LASTING = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_IOERR_SHORT_READ")


class File:
    """The file of one database: made if it is missing at first, and never once it was there."""

    def __init__(self, url: URL) -> None:
        name = url.database
        self._url = masked(str(url))
        self.path: Path | None = None
        if url.get_backend_name() == "sqlite" and name and name != ":memory:" and not name.startswith("file:"):
            self.path = Path(name).absolute()
        self._seen: tuple[int, int] | None = None

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
            raise DatabaseRefuses(
                url=self._url, reason=error.strerror or error, advice=REFUSALS["SQLITE_CANTOPEN"]
            ) from error

    def opened(self) -> None:
        """Remember which file it is, at the first of its connections; raises DatabaseLost at a later one of another."""
        if self.path is not None and self._seen is None:
            with suppress(OSError):
                self._seen = _identity(self.path)
        self.check()

    def check(self) -> None:
        """Raise DatabaseLost if the file that was opened, or what SQLite keeps beside it, is not there any more."""
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

    While a process has the database open, nobody deletes one of them rightly, SQLite included.
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


def advice(error: DBAPIError, reason: str) -> str | None:
    """What helps against a refusal of SQLite's; None if it is none, but a file that is locked by another writer."""
    name = getattr(error.orig, "sqlite_errorname", None) or ""
    if any(words in reason for words in NOT_OURS):
        return NOT_OURS_ADVICE
    return next((text for code, text in REFUSALS.items() if name.startswith(code)), None)


def damage(tx: Connection, path: Path) -> str | None:
    """The first thing wrong with the file, as SQLite finds by reading all of it; not asked of a large one."""
    if path.stat().st_size > QUICK_BYTES:
        return None
    found = str(tx.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
    return None if found == "ok" else found.replace("\n", " ")


def is_lasting(error: DBAPIError) -> bool:
    """Whether the file is damaged, so that no waiting helps."""
    return str(getattr(error.orig, "sqlite_errorname", None)).startswith(LASTING)


def opened(url: URL, patience: float, file: File) -> Engine:
    """The engine of a SQLite database; nothing connects yet."""
    file.make()
    engine = create_engine(url, connect_args={"timeout": patience, "check_same_thread": False}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: Any) -> None:
        # The driver must not begin transactions by itself: a read that turns into a write fails at once.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        file.opened()

    @event.listens_for(engine, "begin")
    def begin(tx: Connection) -> None:
        driver: Any = tx.connection.driver_connection
        if not driver.in_transaction:
            tx.exec_driver_sql(BEGIN if tx.get_execution_options().get("batchq_writes") else "BEGIN")

    return engine
