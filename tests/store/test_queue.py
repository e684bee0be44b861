"""What is open now, on each kind of database."""

from __future__ import annotations

from batchq import Job
from batchq.planning.open_runs import OpenRun, open_runs
from batchq.store.database import Database
from play import Clocked, Play


def found(database: Database) -> list[OpenRun]:
    with database.read() as tx:
        return open_runs(tx)


def test_runs_that_have_not_ended_are_open_with_all_their_tasks_and_conditions(database: Clocked):
    play = Play(database)
    ended = Job("ENDED")
    ended.task("A", "demo.work")
    play.play(ended)
    job = Job("J")
    first = job.task("A", "demo.work")
    job.task("B", "demo.work", after=first.error.handles)
    job.task("C", "demo.work", after=first.finished)
    play.submit(job)
    play.deliver()
    play.finish("A", run=2)

    (run,) = found(database)
    assert (run.row.id, run.row.job, run.row.status) == (2, "J", "executing")
    states = {row.name: row.status for row in run.tasks.values()}
    assert states == {"A": "success", "B": "didnt_run", "C": "executing"}
    conditions = {
        (run.tasks[each.task_id].name, run.tasks[each.predecessor_id].name, each.outcome, each.handles)
        for rows in run.conditions.values()
        for each in rows
    }
    assert conditions == {("B", "A", "error", True), ("C", "A", "finished", False)}

    play.finish("C", run=2)
    assert found(database) == []
