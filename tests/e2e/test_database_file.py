"""SQLite's file is deleted, replaced or damaged while processes work on it: they end, with one sentence and code 4."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchq.store import schema
from batchq.store.database import Database
from support.site import Folder, Site

pytestmark = pytest.mark.slow

HELD = "job: J\ntasks: {A: {run: ledger.work, kwargs: {gate: GATE}}}"
LOST = "was deleted or replaced under this process"
DAMAGED = "Stop all that uses it; then put back a backup"
END_SECONDS = 15.0


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    """Put another database in its place, as who restores a backup does."""
    copy = Database(f"sqlite:///{path}.new")
    schema.upgrade(copy)
    copy.dispose()
    Path(f"{path}.new").replace(path)


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def delete_wal(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def delete_shm(path: Path) -> None:
    Path(f"{path}-shm").unlink()


def write_back(path: Path) -> None:
    """Let the file itself hold all that is stored."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def overwrite_header(path: Path) -> None:
    write_back(path)
    with path.open("r+b") as file:
        file.write(b"This is no database at all. " * 4)


def zero_all_but_the_header(path: Path) -> None:
    write_back(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\0" * (size - 4096))


def truncate(path: Path) -> None:
    write_back(path)
    os.truncate(path, 4096)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "deleted": (delete, LOST),
    "replaced": (replace, LOST),
    "its folder moved": (move_folder, LOST),
    "-wal deleted": (delete_wal, LOST),
    "-shm deleted": (delete_shm, LOST),
    "header overwritten": (overwrite_header, "Put back the file that belongs there"),
    "zeroed": (zero_all_but_the_header, DAMAGED),
    "truncated": (truncate, DAMAGED),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.start_broker()
        yield site


def said(text: str, sentence: str) -> list[str]:
    return [line for line in text.splitlines() if sentence in line and ("CRITICAL" in line or "rror" in line)]


@pytest.mark.parametrize("fault", FAULTS)
def test_server_and_coordinator_end_with_one_sentence(site: Site, fault: str) -> None:
    act, sentence = FAULTS[fault]
    name = fault.replace(" ", "_")
    path = site.folder / name / "batchq.db"
    url = f"sqlite:///{path}"
    own = {"BATCHQ_DATABASE_URL": url, "BATCHQ_DEPLOYMENT": name.strip("-"), "TEST_LEDGER": f"{path.parent}.jsonl"}
    schema.upgrade(database := Database(url))
    database.dispose()
    pool = "threads" if fault == "replaced" else "prefork"
    site.start(f"{name} coordinator", "coordinator", **own)
    site.start(f"{name} server", "server", "start", "AOS1", "--pool", pool, **own)
    site.wait_for("the server", lambda: " ready.\n" in site.log(f"{name} server"))
    (site.folder / "held.yaml").write_text(HELD.replace("GATE", name))
    site.cli("submit", "held.yaml", **own)
    site.wait_for("the task", Path(f"{path.parent}.jsonl").exists)
    server = site.processes[f"{name} server"]
    left = site.children(f"{name} server")

    act(path)
    if fault == "deleted":
        check = site.cli("check", code=1, **own)
        assert f"Process {server.pid} works on a file that was deleted or replaced" in check.stdout
        path.unlink(missing_ok=True)
    if sentence != LOST:
        site.open_gate(name)  # its outcome is to be stored
    ended = time.monotonic() + END_SECONDS

    assert site.wait_exit(f"{name} server") == 4
    if fault == "header overwritten":
        # Who has read the header before need not read it again while nobody else writes; who opens the file must.
        assert sentence in site.cli("check", code=1, **own).stdout
        site.processes.pop(f"{name} coordinator").kill()
    else:
        assert site.wait_exit(f"{name} coordinator") == 4
    assert time.monotonic() < ended
    for process in ("server",) if fault == "header overwritten" else ("server", "coordinator"):
        text = site.log(f"{name} {process}")
        assert len(said(text, sentence)) == 1
        assert "Traceback" not in text
    site.wait_for("what ran to end", lambda: not any(child.is_running() for child in left))
    # Nobody made the file that was missing.
    assert path.exists() == (fault not in ("deleted", "its folder moved"))


def test_dev_ends_with_all_that_it_started(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        folder.start("dev", "dev", "--no-console")
        folder.wait_for("dev", lambda: "Stop with Ctrl-C" in folder.log("dev"))
        logs = tmp_path / ".batchq" / "logs"
        folder.wait_for(
            "Batch1", lambda: (logs / "Batch1.log").exists() and " ready." in (logs / "Batch1.log").read_text()
        )
        shutil.rmtree(tmp_path / ".batchq")
        assert folder.wait_exit("dev") == 4
        text = folder.log("dev")
        assert len([line for line in text.splitlines() if LOST in line]) == 1
        assert "Traceback" not in text
