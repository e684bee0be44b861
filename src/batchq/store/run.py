"""A run in SQL: opened, and stored with its tasks and conditions (rules 24, 29)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, insert, literal, select, update
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from batchq.core.limits import named, of_job, of_run, written
from batchq.core.states import NOT_STARTED, RunState
from batchq.store import job as jobs
from batchq.store import schema
from batchq.store import topology as topologies
from batchq.store.columns import CONDITION, RUN, TASK, task_id
from batchq.store.group import NamedGroup, named_groups
from batchq.store.lane import lanes_for
from batchq.store.limit import require_limits
from batchq.store.rows import Kind, Number, kinds_of
from batchq.store.sql.dialect import dialect
from batchq.store.sql.lists import among
from batchq.store.sql.statement import NoRow, Statement
from batchq.store.sql.untyped import Columns
from batchq.store.tables import Run, TaskCondition, TaskRow
from batchq.store.transaction import Tx

if TYPE_CHECKING:
    from batchq.spec import JobSpec

# --- storing ------------------------------------------------------------------------------------------------

_opened = {name: RUN[name] for name in ("id", "job_id", "job", "open_tasks", "run_by", "company", "submitted_at")}
_OPEN_RUNS = Statement(
    lambda given: insert(Run).from_select(
        [*_opened, "status"],
        select(*(getattr(given, name) for name in _opened), literal(RunState.STORING.value, RUN.status.type)),
        include_defaults=False,
    ),
    columns=_opened,
)


def open_run(tx: Tx, job: JobSpec, tasks: int | None = None) -> tuple[Number, datetime]:
    """Insert a run, as `open_runs` does."""
    (number,), now = open_runs(tx, [job], None if tasks is None else [tasks])
    return number, now


def open_runs(tx: Tx, specs: Sequence[JobSpec], tasks: Sequence[int] | None = None) -> tuple[list[Number], datetime]:
    """Insert a run of each job, still `storing`, its groups and the jobs' newest definitions.

    `tasks` counts each run's tasks with the gates of its inner joins; without it no job has such joins.

    Returns the numbers that give the runs' rows their ids, in the order of the jobs, and the instant. Raises
    DatabaseOutdated or DatabaseTooNew unless the schema is the newest one; Conflict for a job that is withheld, or one
    that runs one at a time while a run of it is open; NotFound for a limit that does not exist.
    """
    revision, kept = schema.asked(tx), jobs.stored(tx, {job.name for job in specs})
    kinds = list(map(kinds_of, specs))
    groups = named_groups(tx, {group for each in kinds for group, _ in each})
    reserved = dialect(tx).reserve(tx, RUN.id, len(specs))
    now = tx.now()
    schema.require_newest(tx, revision)
    jobs.refuse_withheld(kept)
    ids, found = jobs.keep(tx, kept, specs, now), groups.rows
    jobs.refuse_second_run(tx, specs, ids)
    counts = [len(job.tasks) for job in specs] if tasks is None else tasks
    numbered = list(zip(reserved(), specs, counts, strict=True))
    require_limits(tx, {limit for each in kinds for _, limits in each for limit in limits})
    _OPEN_RUNS.later(tx, [_run(run, ids[job.name], job, count, now) for run, job, count in numbered])
    opened = [
        Number(run, found, _lanes(tx, job, its, found, ids[job.name], run))
        for (run, job, _), its in zip(numbered, kinds, strict=True)
    ]
    if jobs.limit_tasks(tx, kept, specs, ids):
        topologies.changed(tx)  # last, as it takes the dispatch lock
    return opened, now


def _lanes(
    tx: Tx, job: JobSpec, kinds: Collection[Kind], groups: Mapping[str, NamedGroup], job_id: int, run: int
) -> dict[Kind, int]:
    """The lanes of a job's tasks, by their kinds; makes those that lack."""
    common = [] if job.tasks_at_once is None else [of_job(job_id)]
    found, wanted = {}, {}
    for group, limits in kinds:
        per_run = groups[group].per_run is not None
        keys = [*map(named, limits), *common, *([of_run(run)] if per_run else [])]
        if keys:
            wanted[group, limits] = (group, written(keys), run if per_run else None)
        elif (lane := groups[group].lane) is not None:
            found[group, limits] = lane
    if wanted:
        made = lanes_for(tx, list(wanted.values()))
        found |= {kind: made[group, keys] for kind, (group, keys, _) in wanted.items()}
    return found


def _run(number: int, job_id: int, job: JobSpec, tasks: int, now: datetime) -> dict[str, object]:
    return {
        "id": number,
        "job_id": job_id,
        "job": job.name,
        "open_tasks": tasks,
        "run_by": job.run_by,
        "company": job.company,
        "submitted_at": now,
    }


# The columns that every task is stored with; all others begin with the column's default.
_stored = {
    name: TASK[name]
    for name in (
        *("id", "run_id", "name", "operation", "args", "kwargs", "group_name", "own_class", "own_priority", "lane"),
        *("retries", "retry_delay", "time_limit", "ignore_failure", "joined", "pending", "waits_with", "sharing"),
    )
}
_at_first = {
    column.name: column.default.arg
    for column in TASK
    if isinstance(column.default, ScalarElementColumnDefault) and column.name not in _stored
}
# The columns that few tasks use, with the value for those that use only others of them.
_seldom: dict[str, object] = {"gate": False, "unnamed": False, "stage": None, "policy": None, "repeatable": False}


def _inserting(stored: Columns) -> Statement[NoRow]:
    return Statement(
        lambda given: insert(TaskRow).from_select(
            [*stored, *_at_first],
            select(
                *(getattr(given, name) for name in stored),
                *(literal(value, TASK[name].type) for name, value in _at_first.items()),
            ),
            include_defaults=False,
        ),
        columns=stored,
    )


_ADD_TASKS = _inserting(_stored)
_ADD_SPECIAL = _inserting(_stored | {name: TASK[name] for name in _seldom})


def add_tasks(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert tasks; those with a column that few use take a statement of their own."""
    special = [_seldom | {**row} for row in rows if not _seldom.keys().isdisjoint(row)]
    plain = [row for row in rows if _seldom.keys().isdisjoint(row)] if special else rows
    if plain:
        _ADD_TASKS.later(tx, plain)
    if special:
        _ADD_SPECIAL.later(tx, special)


_condition = {name: CONDITION[name] for name in ("predecessor_id", "task_id", "outcome", "handles")}
_ADD_CONDITIONS = Statement(
    lambda given: insert(TaskCondition).from_select(
        list(_condition), select(*(getattr(given, name) for name in _condition))
    ),
    plain=True,
    columns=_condition,
)


def add_conditions(tx: Tx, rows: Sequence[tuple[int, int, str, bool]]) -> None:
    """Insert conditions: predecessor, task, outcome, and whether it handles a failure."""
    if rows:
        _ADD_CONDITIONS.later(tx, rows)


# Rows that one transaction changes: where others write meanwhile, they wait for it.
PRIORITIES_AT_ONCE = 5_000
_SET_PRIORITY = Statement(
    update(TaskRow)
    .where(among(TASK.id, "tasks"))
    .values(own_class=bindparam("priority", type_=TASK.own_class.type), own_priority=True)
)


def set_priority(tx: Tx, run: int, priority: int, first: int = 0) -> list[int]:
    """Give the next tasks of a run that have not started, from this id on, a priority of their own; returns their ids.

    They are PRIORITIES_AT_ONCE at most (rule 54). The caller has locked the run: who settles it moves its tasks on
    under the dispatch lock.
    """
    its = (TASK.id >= max(first, task_id(run, 0)), TASK.id < task_id(run + 1, 0))
    waiting = select(TASK.id).where(*its, TASK.status.in_([state.value for state in NOT_STARTED])).order_by(TASK.id)
    tasks = list(tx.execute(waiting.limit(PRIORITIES_AT_ONCE).with_for_update(key_share=True)).scalars())
    if tasks:
        _SET_PRIORITY.later(tx, tasks=tasks, priority=priority)
    return tasks
