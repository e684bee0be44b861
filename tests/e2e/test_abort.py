"""Abort of a task on real processes (rule 32): its process is stopped, and nothing else on its server is hurt."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import select, text

from batchq import Job, actions
from batchq.core.states import RUN_ENDED
from batchq.errors import Conflict
from batchq.store.tables import AttemptRow, TaskRow
from support.site import Entry, Site

APP = """
import time

from support.ledger_app import _write, app


@app.task(name="deaf", shared=False)
def deaf():
    _write("start", time.monotonic())
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


def deaf() -> None:
    """Stand for the operation above in the process of the tests, which submits it."""


SERVERS = "groups: {THREADS: {}}\nservers: {AOS1: {threads: 2}, AOS2: {threads: 1, groups: [THREADS]}}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """AOS1 with two processes, AOS2 with a thread; their tasks leave a ledger."""
    folder = tmp_path_factory.mktemp("abort")
    (folder / "deaf_app.py").write_text(APP)
    with Site(folder, app="deaf_app") as site:
        site.batch.app.task(deaf, name="deaf", shared=False)
        site.start_broker()
        site.apply(SERVERS)
        site.start_server("AOS1")
        yield site


def long(site: Site, operation: str = "ledger.work", **options: Any) -> int:
    """A run whose only task A executes until it is aborted."""
    job = Job("LONG")
    kwargs = {"gate": "never"} if operation == "ledger.work" else {}
    job.task("A", operation, kwargs=kwargs, retries=3, **options)
    run = site.submit(job)
    site.wait_for("A to be claimed", lambda: status(site, "batchq_task", f"run_id = {run}") == "executing")
    return run


def status(site: Site, table: str, where: str) -> str:
    """The status of one row."""
    with site.database.read() as tx:
        return str(tx.execute(text(f"SELECT status FROM {table} WHERE {where}")).scalar_one())


def started(site: Site, run: int) -> Entry:
    """What the run's only operation wrote down as it began."""
    (entry,) = site.wait_for("A to start", lambda: site.ledger(run))
    return entry


def abort(site: Site, run: int) -> None:
    """Abort A as `batchq task abort` does, and have the server look into SQL at once."""
    actions.abort_task(site.database, run, "A")
    site.batch.app.control.broadcast("batchq_look")


def wait_aborted(site: Site, run: int) -> str:
    """Wait until the run of one aborted task has ended; returns what is said of its only attempt."""
    site.wait_for("the abort", lambda: status(site, "batchq_run", f"id = {run}") in RUN_ENDED)
    task, attempt = TaskRow.__table__.c, AttemptRow.__table__.c
    found = select(task.status, task.attempt, attempt.reason, attempt.error).where(task.run_id == run)
    with site.database.read() as tx:
        (row,) = tx.execute(found.join(AttemptRow, attempt.task_id == task.id)).all()
    assert row[:3] == ("canceled", 1, "aborted")
    assert row.error.startswith("aborted by an operator")
    return str(row.error)


def pids(site: Site) -> set[int]:
    """The processes of AOS1's pool."""
    return {child.pid for child in site.children("AOS1")}


# --- beside others ------------------------------------------------------------------------------------------


class Beside:
    """Tasks of 1 ms, one after the other, on one thread of a server for as long as it is asked to `go_on`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.runs: list[int] = []

    def go_on(self) -> None:
        """See to it that such a task runs."""
        if not self.runs or status(self.site, "batchq_run", f"id = {self.runs[-1]}") in RUN_ENDED:
            job, before = Job("BESIDE"), None
            for number in range(300):
                before = job.task(f"B{number}", "ledger.work", kwargs={"seconds": 0.001}, after=before)
            self.runs.append(self.site.submit(job))

    def end(self) -> None:
        """Cancel what is left; each task that started must have succeeded at its first attempt."""
        with suppress(Conflict):  # it may have ended by itself meanwhile
            actions.cancel_run(self.site.database, self.runs[-1])
        for run in self.runs:
            tasks = self.site.wait_end(run)["tasks"]
            ended = {(task["status"], task["attempts"]) for task in tasks}
            assert ended <= {("success", 1), ("canceled", 0)}, ended


def abort_beside(site: Site, times: int) -> None:
    """Abort a task again and again, at any moment of its life, while tasks of 1 ms run on the other thread."""
    chance, beside, gone = random.Random(7), Beside(site), {}
    for _ in range(times):
        beside.go_on()
        run = long(site)
        time.sleep(chance.choice([0.0, 0.0, 0.02]))  # no wait for anything: an abort may come at any moment
        before = pids(site)
        abort(site, run)
        wait_aborted(site, run)
        (gone[run],) = before - pids(site)
    beside.end()
    ledger = site.ledger()
    assert [entry for entry in ledger if entry.pid != gone.get(entry.run, entry.pid)] == []
    assert most_at_once(entry for entry in ledger if entry.server == "AOS1") <= 2
    assert "Traceback" not in site.log("AOS1")


def most_at_once(entries: Iterable[Entry]) -> int:
    """The most operations that ran at the same instant; it fails for an attempt that ran twice."""
    known = [entry for entry in entries if entry.end is not None]
    events = sorted([(entry.start, 1) for entry in known] + [(entry.end, -1) for entry in known])
    most = now = 0
    for _, step in events:
        now += step
        most = max(most, now)
    return most


def test_an_abort_hurts_nothing_that_runs_beside_it_as_rule_32_says(site: Site) -> None:
    abort_beside(site, 25)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nor_do_five_hundred_of_them(site: Site) -> None:
    abort_beside(site, 500)


def test_the_other_of_two_tasks_keeps_its_process_and_goes_on(site: Site) -> None:
    job = Job("OTHER")
    job.task("A", "ledger.work", kwargs={"gate": "other"})
    other = site.submit(job)
    entry = started(site, other)
    for _ in range(2):
        run = long(site)
        assert started(site, run).pid != entry.pid
        abort(site, run)
        wait_aborted(site, run)
        assert entry.pid in pids(site)
    site.open_gate("other")
    assert site.wait_end(other)["status"] == "success"
    assert [each.pid for each in site.ledger(other)] == [entry.pid]


# --- alone --------------------------------------------------------------------------------------------------


def test_an_operation_that_swallows_the_signal_is_killed_after_five_seconds_as_rule_32_says(site: Site) -> None:
    run = long(site, "deaf")
    entry = started(site, run)
    began = time.monotonic()
    abort(site, run)
    error = wait_aborted(site, run)
    assert 5.0 <= time.monotonic() - began < 15
    assert entry.pid not in pids(site)
    assert error == "aborted by an operator during this attempt; what it did is not known"


def test_a_flagged_attempt_whose_server_dies_is_canceled_by_its_next_life_as_rule_32_says(site: Site) -> None:
    run = long(site, "deaf")
    started(site, run)
    actions.abort_task(site.database, run, "A")
    site.kill("AOS1")
    site.start_server("AOS1")
    assert "went away during this attempt" in wait_aborted(site, run)


def test_on_the_threads_pool_an_abort_is_refused_as_rule_32_says(site: Site) -> None:
    site.start_server("AOS2", pool="threads")
    job = Job("THREADS")
    job.task("A", "ledger.work", kwargs={"gate": "threads"}, group="THREADS")
    run = site.submit(job)
    started(site, run)
    said = "A cannot be aborted: AOS2 runs tasks in threads, and no thread can be stopped alone."
    with pytest.raises(Conflict) as refusal:
        actions.abort_task(site.database, run, "A")
    assert str(refusal.value) == said
    assert said in site.cli("task", "abort", str(run), "A", code=5).stderr
    site.open_gate("threads")
    assert site.wait_end(run)["status"] == "success"
