"""A job in SQL: its newest definition, under its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import bindparam, func, select, update

from batchq import user
from batchq.errors import Action, Advice, Conflict
from batchq.store.columns import JOB, RUN, RUN_IS_OPEN
from batchq.store.sql.dialect import dialect
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Reply, Statement
from batchq.store.tables import JobRow
from batchq.store.transaction import Tx

if TYPE_CHECKING:
    from batchq.spec import JobSpec


class Stored(NamedTuple):
    """A job that is stored, whether it is withheld, and how many of its tasks may run at once."""

    id: int
    name: str
    withheld: bool
    withheld_by: str | None
    withheld_why: str | None
    tasks_at_once: int | None


_STORED = Statement(
    select(*(JOB[field] for field in Stored._fields))
    .where(among(JOB.name, "names"))
    .order_by(JOB.name)
    .with_for_update(),
    row=Stored,
)
_WITHHELD = ("withheld_by", "withheld_at", "withheld_why")
# PostgreSQL compares each definition with each row of the same statement.
REPLACED_AT_ONCE = 500
# A definition that is stored already is not written again: it may be long.
_REPLACE = Statement(
    lambda given: (
        update(JobRow)
        .where(JOB.id == given.job, JOB.definition != given.definition)
        .values(definition=given.definition, updated_at=bindparam("now"))
    ),
    columns={"job": JOB.id, "definition": JOB.definition},
)


def keep_job(tx: Tx, job: JobSpec, now: datetime) -> None:
    """Store the job's newest definition; the caller tells servers of a new topology if its `tasks_at_once` differ."""
    found = stored(tx, [job.name])
    limit_tasks(tx, found, [job], keep(tx, found, [job], now))


def stored(tx: Tx, names: Collection[str]) -> Reply[Stored]:
    """Ask for the rows of jobs, locked until the commit; the statement travels with the next ones."""
    return _STORED.later(tx, names=names)


def refuse_withheld(stored: Reply[Stored]) -> None:
    """Raise Conflict if one of these jobs is withheld (rule 33)."""
    for row in stored.rows:
        if row.withheld:
            told = user.by_whom(row.withheld_by, row.withheld_why)
            advice = Advice("{} lets it go on.", Action.RELEASE_JOB, (row.name,))
            raise Conflict(f"Job {row.name} is withheld{told}: no run of it starts.", advice=advice)


def withhold(tx: Tx, job: int, withheld: bool, by: str, why: str | None, now: datetime) -> bool:
    """Let no run of the job start, or let them start again; False if it is so already (rule 33)."""
    facts = {"withheld_by": by, "withheld_at": now, "withheld_why": why} if withheld else dict.fromkeys(_WITHHELD)
    changed = update(JobRow).where(JOB.id == job, JOB.withheld != withheld).values(withheld=withheld, **facts)
    return bool(tx.execute(changed).rowcount)


def keep(tx: Tx, stored: Reply[Stored], jobs: Iterable[JobSpec], now: datetime) -> dict[str, int]:
    """Store the newest definitions of jobs, whose rows were asked for; returns their ids by name.

    Of several jobs of one name the last one is the newest.
    """
    newest = {job.name: job for job in jobs}
    definitions = {name: job.model_dump_json(exclude_defaults=True) for name, job in newest.items()}
    ids = {row.name: row.id for row in stored.rows}
    if missing := sorted(newest.keys() - ids.keys()):
        ids |= _make(tx, {name: definitions[name] for name in missing}, now)
    rows = [{"job": ids[name], "definition": definition} for name, definition in definitions.items()]
    for at in range(0, len(rows), REPLACED_AT_ONCE):
        _REPLACE.later(tx, rows[at : at + REPLACED_AT_ONCE], now=now)
    return ids


def limit_tasks(tx: Tx, stored: Reply[Stored], jobs: Iterable[JobSpec], ids: Mapping[str, int]) -> bool:
    """Keep how many tasks of each job may run at once, where that differs; False if it is the same (rule 29)."""
    present = {row.name: row.tasks_at_once for row in stored.rows}
    newest = {job.name: job.tasks_at_once for job in jobs}
    changed = {name: units for name, units in newest.items() if units != present.get(name)}
    for name, units in changed.items():
        tx.execute(update(JobRow).where(JOB.id == ids[name]).values(tasks_at_once=units))
    return bool(changed)


def refuse_second_run(tx: Tx, jobs: Sequence[JobSpec], ids: Mapping[str, int]) -> None:
    """Raise Conflict for a job that runs one at a time while a run of it is open; the jobs are locked (rule 29)."""
    single = Counter(job.name for job in jobs if job.one_at_a_time)
    if not single:
        return
    for name, number in single.items():
        if number > 1:
            raise Conflict(f"Job {name} runs one at a time: {number} runs of it cannot be submitted together.")
    its = (RUN_IS_OPEN, RUN.job_id.in_([ids[name] for name in single]))
    for row in tx.execute(select(RUN.job, func.min(RUN.id).label("run")).where(*its).group_by(RUN.job)):
        raise Conflict(f"Job {row.job} runs one at a time, and run {row.run} of it is open.")


def _make(tx: Tx, definitions: Mapping[str, str], now: datetime) -> dict[str, int]:
    """Insert jobs that did not exist; returns their ids, also of one that another process inserted meanwhile."""
    rows = [{"name": name, "definition": text, "updated_at": now} for name, text in definitions.items()]
    tx.execute(dialect(tx).insert_if_new(JobRow), rows)
    return {row.name: row.id for row in stored(tx, definitions).rows}
