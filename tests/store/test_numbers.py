"""The number of a run: it is never given again, whatever becomes of the run that had it (rule 35)."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, insert, select

from batchq import Job, engine
from batchq.store.columns import JOB, RUN
from batchq.store.tables import Run
from play import Clocked


def submitted(database: Clocked) -> int:
    job = Job("NUMBERED")
    job.task("A", "demo.work")
    return engine.submit(database, job.spec())


@pytest.mark.parametrize("gone", [[3], [2, 3], [1, 2, 3], [2]])
def test_the_number_of_a_deleted_run_is_not_given_again(database: Clocked, gone: list[int]):
    assert [submitted(database) for _ in range(3)] == [1, 2, 3]
    database.run(lambda tx: tx.execute(delete(Run).where(RUN.id.in_(gone))))
    assert [submitted(database) for _ in range(2)] == [4, 5]


def test_a_run_that_an_older_process_numbered_by_itself_counts_too(sqlite: Clocked):
    assert submitted(sqlite) == 1
    with sqlite.write() as tx:
        job = tx.execute(select(JOB.id)).scalar_one()
        values = {"job_id": job, "job": "NUMBERED", "status": "storing", "open_tasks": 0}
        tx.execute(insert(Run).values(**values, submitted_at=tx.now()))
    assert submitted(sqlite) == 3
