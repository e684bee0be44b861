"""A job in SQL: its newest definition, under its name."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, insert, select, update

from batchq.store.columns import JOB
from batchq.store.sql.statement import Id, Reply, Statement
from batchq.store.tables import JobRow
from batchq.store.transaction import Tx

if TYPE_CHECKING:
    from batchq.spec import JobSpec

_STORED = Statement(select(JOB.id).where(JOB.name == bindparam("named")).with_for_update(), row=Id)
_REPLACE = Statement(
    update(JobRow)
    .where(JOB.id == bindparam("job"))
    .values(definition=bindparam("definition"), updated_at=bindparam("now"))
)


def keep_job(tx: Tx, job: JobSpec, now: datetime) -> int:
    """Store the job's newest definition; returns its id."""
    return keep(tx, stored(tx, job.name), job, now)


def stored(tx: Tx, name: str) -> Reply[Id]:
    """Ask for the job's row, locked until the commit; the statement travels with the next ones."""
    return _STORED.later(tx, named=name)


def keep(tx: Tx, stored: Reply[Id], job: JobSpec, now: datetime) -> int:
    """Store the newest definition of a job, whose row was asked for; returns its id."""
    definition = job.model_dump_json(exclude_defaults=True)
    for row in stored.rows:
        _REPLACE.later(tx, job=row.id, definition=definition, now=now)
        return int(row.id)
    values = {"name": job.name, "definition": definition, "updated_at": now}
    return int(tx.execute(insert(JobRow).values(**values).returning(JOB.id)).scalar_one())
