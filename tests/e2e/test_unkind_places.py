"""The commands in unkind places: one true sentence, its exit code, no traceback, and nothing left running.

A row is a place, the command that is typed there, and what comes of it.
"""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchq.store.schema import NEWEST
from support.site import Folder

pytestmark = pytest.mark.slow

JOB = "job: J\ntasks: {A: {run: demo.work}}\n"
# Root without the right to pass over permission bits.
BOUND = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search")
NO_SHM = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh")
SMALL = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k none "$PWD" && cp "$JOB" . && exec "$@"', "sh")
SECONDS = 90.0

Make = Callable[[Path], object]


def nothing(folder: Path) -> None:
    """A kind place."""


def below(name: str, content: bytes | None = None, mode: int = 0o700) -> Make:
    """`.batchq` with a file of this content, or a folder, of this name in it."""

    def make(folder: Path) -> None:
        home = folder / ".batchq"
        home.mkdir(mode=0o700)
        if content is None:
            (home / name).mkdir()
        else:
            (home / name).write_bytes(content)
        home.chmod(mode)

    return make


def home_is_a_file(folder: Path) -> None:
    (folder / ".batchq").write_text("mine")


def read_only(folder: Path) -> None:
    for words in (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)]):
        if subprocess.run(["mount", *words], capture_output=True, check=False).returncode:
            pytest.skip("NOT TESTED: nothing can be mounted here")


def not_writable(folder: Path) -> None:
    folder.chmod(0o500)


def cyrillic(folder: Path) -> None:
    (folder / "job.yaml").write_text("job: Задача\ntasks: {Шаг: {run: demo.work}}\n", encoding="utf-8")


def long_tmp(folder: Path) -> None:
    (folder / ("t" * 150)).mkdir()


def alien_table(folder: Path) -> None:
    sql(folder, "CREATE TABLE batchq_run (id)")


def alien_version(folder: Path) -> None:
    sql(folder, "CREATE TABLE batchq_version (version_num)", "INSERT INTO batchq_version VALUES ('0002abc')")


def alien_application(folder: Path) -> None:
    sql(folder, "CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('f00')")


def version_without_tables(folder: Path) -> None:
    sql(folder, "CREATE TABLE batchq_version (version_num)", f"INSERT INTO batchq_version VALUES ('{NEWEST}')")


def sql(folder: Path, *statements: str) -> None:
    import sqlite3

    (folder / ".batchq").mkdir(mode=0o700)
    with sqlite3.connect(folder / ".batchq" / "batchq.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def long_path(length: int) -> str:
    return "/".join(["p" * 99] * (length // 100))


def files_at_most(number: int) -> Callable[[], object]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


@dataclass(frozen=True)
class Place:
    """What is typed where, and what comes of it. `shell` stands behind the command, `wrapped` before it."""

    words: str = "run job.yaml --timeout 60"
    make: Make = nothing
    code: int = 0
    says: str = ""
    env: dict[str, str] = field(default_factory=dict)
    shell: str = ""
    wrapped: tuple[str, ...] = ()
    before: Callable[[], object] | None = None
    cwd: str = "."


HOME = "set BATCHQ_HOME to another folder."
NO_OUTPUT = "What this command prints cannot be written (No space left on device). Send it elsewhere."
NO_DATABASE = "refuses (file is not a database). Put back the file that belongs there"
PLACES = {
    "folder on a read-only disk": Place(
        make=read_only, code=4, says=f"(Read-only file system). Let this user write there, or {HOME}"
    ),
    "its status": Place("status", read_only, 4, "refuses (Read-only file system)"),
    "folder of somebody else": Place(make=not_writable, code=4, says="(Permission denied). Let this", wrapped=BOUND),
    "its submit": Place("submit job.yaml", not_writable, 4, "refuses (Permission denied)", wrapped=BOUND),
    "its server": Place("server start S", not_writable, 4, "refuses (Permission denied)", wrapped=BOUND),
    ".batchq of somebody else": Place(
        make=below("x", b"", mode=0o000), code=4, says="(Permission denied)", wrapped=BOUND
    ),
    ".batchq is a file": Place(
        make=home_is_a_file, code=4, says=f"(Not a directory). Let this user write there, or {HOME}"
    ),
    "lock is a folder": Place(make=below("lock"), code=4, says="lock cannot be used (Is a directory)"),
    "guests is a folder": Place(make=below("guests"), code=4, says="guests cannot be used (Is a directory)"),
    "logs is a file": Place(make=below("logs", b"x"), code=4, says="(Not a directory)"),
    "database is a folder": Place(make=below("batchq.db"), code=4, says="refuses (unable to open database file)"),
    "lock holds junk": Place("status", below("lock", b"junk {")),
    "lock is binary": Place("status", below("lock", bytes(range(256)))),
    "lock is of a process long gone": Place("status", below("lock", b'{"pid": 1, "broker": "redis://nowhere:1"}')),
    "database is empty": Place("status", below("batchq.db", b"")),
    "table of another application": Place(make=alien_table, code=4, says="Its tables are not those of batchq"),
    "version of another application": Place("db upgrade", alien_version, 4, "Its table batchq_version is none of ours"),
    "another application beside us": Place("status", alien_application),
    "version without tables": Place("status", version_without_tables, 4, "Its tables are not those of batchq"),
    "full disk": Place(code=4, says="Free some room on its disk", wrapped=SMALL),
    "run on /dev/full": Place(code=1, says=NO_OUTPUT, shell=">/dev/full"),
    "status on /dev/full": Place("status", code=1, says=NO_OUTPUT, shell=">/dev/full"),
    "JSON on /dev/full": Place("server list -o json", code=1, says=NO_OUTPUT, shell=">/dev/full"),
    "help on /dev/full": Place("--help", code=1, says=NO_OUTPUT, shell=">/dev/full"),
    "stdout closed": Place("status", shell=">&-"),
    "JSON with stdout closed": Place("status -o json", shell=">&-"),
    "all three closed": Place(shell="<&- >&- 2>&-"),
    "stderr closed": Place("runs show 99", code=3, shell="2>&-"),
    "stderr full": Place("runs show 99", code=1, shell="2>/dev/full"),
    "only its first line is read": Place("plan job.yaml", shell="| head -1"),
    "path of 600 bytes": Place(env={"BATCHQ_HOME": long_path(600)}, code=4, says="its path is too long for SQLite"),
    "path of 4,000 bytes": Place(env={"BATCHQ_HOME": long_path(4000)}, code=4, says="its path is too long for SQLite"),
    "path of 5,000 bytes": Place(env={"BATCHQ_HOME": long_path(5000)}, code=4, says="(File name too long)"),
    "name of 300 bytes": Place("status", env={"BATCHQ_HOME": "n" * 300}, code=4, says="(File name too long)"),
    "TMPDIR too long for a socket": Place(make=long_tmp, env={"TMPDIR": "{folder}/" + "t" * 150}),
    "TMPDIR that is missing": Place("status", env={"TMPDIR": "/nowhere"}),
    "HOME unset": Place("status", wrapped=("env", "-u", "HOME")),
    "umask that forbids all": Place("status", before=lambda: os.umask(0o777), wrapped=BOUND),
    "few files": Place(before=files_at_most(10), code=1, says="valkey ended with exit code 1 as it started. Its log: "),
    "no semaphores": Place(code=1, says="times soon after its start, the last time with exit code 4", wrapped=NO_SHM),
    "no semaphores for a server": Place(
        "server start S",
        code=4,
        says="/dev/shm cannot be used",
        wrapped=NO_SHM,
        env={"BATCHQ_BROKER_URL": "redis://127.0.0.1:1"},
    ),
    "ASCII terminal": Place(make=cyrillic, env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}),
    "no terminal, no input": Place("status", wrapped=("setsid", "--wait"), shell="<&-"),
}


@contextmanager
def place(tmp_path: Path, make: Make) -> Iterator[Folder]:
    """A folder as `make` makes it."""
    inner = tmp_path / "place"
    inner.mkdir()
    (inner / "job.yaml").write_text(JOB)
    folder = Folder(inner, JOB=str(tmp_path / "job.yaml"))
    (tmp_path / "job.yaml").write_text(JOB)
    del folder.env["NO_COLOR"]
    try:
        make(inner)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(inner)], capture_output=True, check=False)
        inner.chmod(0o700)
        folder.close()


def type_there(folder: Folder, place: Place) -> subprocess.CompletedProcess[str]:
    command = f'"$@" {place.shell}'
    argv = ["sh", "-c", command, "sh", *place.wrapped, sys.executable, "-m", "batchq", *place.words.split()]
    env = {name: value.replace("{folder}", str(folder.folder)) for name, value in place.env.items()}
    return subprocess.run(
        argv,
        cwd=folder.folder / place.cwd,
        env=folder.env | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
        preexec_fn=place.before,
    )


@pytest.mark.parametrize("name", PLACES)
def test_a_command_says_one_true_sentence(tmp_path: Path, name: str) -> None:
    row = PLACES[name]
    if row.wrapped and subprocess.run([*row.wrapped[:2], "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"NOT TESTED: {' '.join(row.wrapped[:2])} is not allowed here")
    with place(tmp_path, row.make) as folder:
        ended = type_there(folder, row)

    said = f"exit {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert ended.returncode == row.code, said
    assert "Traceback" not in said
    if row.code and row.says:
        lines = [line for line in ended.stderr.splitlines() if line.startswith("Error: ") or "CRITICAL" in line]
        assert len(lines) == 1, said
        assert row.says in lines[0]


COMMANDS = (
    "run job.yaml",
    "dev --no-console",
    "submit job.yaml",
    "apply job.yaml",
    "db upgrade",
    "status",
    "job list",
    "runs list",
    "runs show 1",
    "task list 1",
    "group list",
    "server list",
    "server show S",
    "server start S",
    "coordinator",
)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_says_of_junk_that_it_is_no_database(tmp_path: Path, words: str) -> None:
    with place(tmp_path, below("batchq.db", b"junk " * 1000)) as folder:
        broker = {} if words.startswith(("run", "dev")) else {"BATCHQ_BROKER_URL": "amqp://"}
        ended = type_there(folder, Place(words, env=broker))
    said = f"exit {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert ended.returncode == 4, said
    assert [line for line in ended.stderr.splitlines() if NO_DATABASE in line and line.startswith("Error: ")], said
    assert "Traceback" not in said


def test_check_tells_of_junk_among_its_problems(tmp_path: Path) -> None:
    with place(tmp_path, below("batchq.db", b"junk " * 1000)) as folder:
        ended = type_there(folder, Place("check"))
    assert ended.returncode == 1
    assert NO_DATABASE in ended.stdout


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe", b'{"pid": "x"}', b'{"broker": null}'])
def test_a_lock_that_something_else_holds_is_named(tmp_path: Path, content: bytes) -> None:
    with place(tmp_path, below("lock", content)) as folder, (folder.folder / ".batchq" / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert type_there(folder, Place("status")).returncode == 0
        ended = type_there(folder, Place())
    assert ended.returncode == 5
    assert "lock is no engine of batchq. End that, or set BATCHQ_HOME to another folder." in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_that_was_deleted_is_named(tmp_path: Path) -> None:
    with place(tmp_path, nothing) as folder:
        words = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
        argv = ["sh", "-c", words, "sh", sys.executable, "-m", "batchq", "status"]
        ended = subprocess.run(argv, cwd=folder.folder, env=folder.env, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (
        4,
        "Error: This folder cannot be used (it was deleted). Change to a folder that is there.\n",
    )
