"""`batchq run` with nothing configured: two of them in one folder, Ctrl-C, and what a killed one leaves behind."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchq.spec import loads
from batchq.store import run as runs
from batchq.store import schema
from batchq.store.database import Database
from support import ledger_app
from support.site import Folder

pytestmark = pytest.mark.slow

SHORT = "job: SHORT\ntasks: {TASK 1: {run: ledger.work}, TASK 2: {run: ledger.work, after: TASK 1}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    own = {ledger_app.LEDGER: str(tmp_path / "ledger.jsonl"), ledger_app.GATES: str(tmp_path)}
    with Folder(tmp_path, BATCHQ_APP="support.ledger_app", **own) as folder:
        (tmp_path / "short.yaml").write_text(SHORT)
        for gate in ("one", "two"):
            text = f"job: {gate.upper()}\ntasks: {{TASK 1: {{run: ledger.work, kwargs: {{gate: {gate}}}}}}}\n"
            (tmp_path / f"{gate}.yaml").write_text(text)
        yield folder


def start_and_wait(folder: Folder, name: str) -> None:
    """Run the job that waits at the gate of this name, until its task executes."""
    folder.start(name, "run", f"{name}.yaml")
    folder.wait_for(f"{name} to run", lambda: "executing" in folder.log(name))


def test_two_runs_in_one_folder_share_an_engine_that_stays_for_both(folder: Folder) -> None:
    start_and_wait(folder, "one")
    start_and_wait(folder, "two")
    assert "An engine already runs in this folder" in folder.log("two")

    (folder.folder / "one").touch()
    folder.wait_for("the engine to stay", lambda: "The engine goes on" in folder.log("one"))
    (folder.folder / "two").touch()

    assert (folder.wait_exit("two"), folder.wait_exit("one")) == (0, 0)
    assert "ONE run 1: Ended" in folder.log("one")
    assert "TWO run 2: Ended" in folder.log("two")
    assert folder.alive() == []
    for log in (folder.folder / ".batchq" / "logs").iterdir():
        times = re.findall(r"^(?:\[|\d+:\w )(20\d\d-\d\d-\d\d\S+)", log.read_text(), re.M)
        assert all(re.search(r"\.\d{3}[+-]\d\d:\d\d:?$", time) for time in times), log
        assert times or log.name == "coordinator.log"


def test_what_a_killed_engine_left_over_is_gone_or_canceled(folder: Folder) -> None:
    start_and_wait(folder, "one")
    # Valkey, coordinator, its beat, two servers and a pool child of each.
    folder.wait_for("all of them", lambda: len(folder.children("one")) >= 7)

    folder.kill("one")
    folder.wait_for("its children to end", lambda: folder.alive() == [])
    again = folder.cli("run", "short.yaml")

    assert "Run 1 was left over by an engine that was killed: canceled." in again.stderr
    assert "SHORT run 2: Ended" in again.stdout
    left = folder.json("runs", "show", "1")
    assert (left["status"], left["tasks"][0]["error"].partition(":")[0]) == ("canceled", "lost")


def test_a_job_that_was_being_stored_when_its_command_was_killed_is_canceled_too(folder: Folder) -> None:
    database = Database(f"sqlite:///{folder.folder / '.batchq' / 'batchq.db'}")
    schema.upgrade(database)
    (job,) = loads(SHORT).jobs.values()
    run = database.run(lambda tx: runs.open_run(tx, job)[0].run)
    database.dispose()

    said = folder.cli("run", "short.yaml")

    assert f"Run {run} was left over" in said.stderr
    assert "SHORT run 2: Ended" in said.stdout
    assert folder.json("runs", "show", str(run))["status"] == "canceled"


def test_a_second_command_ends_with_a_word_when_the_engine_is_killed(folder: Folder) -> None:
    start_and_wait(folder, "one")
    start_and_wait(folder, "two")

    folder.kill("one")

    assert folder.wait_exit("two") == 5
    assert "The engine that ran in this folder has ended." in folder.log("two")
    assert folder.alive() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_cancel_the_run_and_end_everything(folder: Folder, number: int) -> None:
    start_and_wait(folder, "one")

    folder.tell("one", number)

    assert folder.wait_exit("one") == 130
    assert "Run 1 is canceled." in folder.log("one")
    assert folder.alive() == []
    assert folder.json("runs", "show", "1")["status"] == "canceled"
