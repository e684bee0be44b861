"""Find a run, job, task, server or group by what people call it; the only place that says that there is none."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple, TypeVar

from sqlalchemy import func, select
from sqlalchemy.sql.elements import ColumnElement

from batchq.errors import Action, Advice, InvalidInput, NotFound, unknown
from batchq.store.columns import GROUP, JOB, LIMIT, RUN, SERVER, TASK
from batchq.store.transaction import Tx

T = TypeVar("T")

LARGEST_NUMBER = 2**63 - 1
# The column that names each kind of thing.
NAMES = {"job": JOB.name, "server": SERVER.name, "group": GROUP.name, "limit": LIMIT.name}


class RunRow(NamedTuple):
    """A run as it is stored."""

    id: int
    job_id: int
    job: str
    status: str
    open_tasks: int
    run_by: str | None
    company: str | None
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    held: bool
    held_by: str | None
    held_at: datetime | None
    held_why: str | None


RUN_ROWS = select(*(RUN[field] for field in RunRow._fields))


def find_run(tx: Tx, run: str | int) -> int:
    """The number of the run that `run` means: a number, or `last`; raises InvalidInput or NotFound."""
    if run == "last":
        newest = newest_run(tx)
        if newest is None:
            raise NotFound(NO_RUN_YET, advice=Advice("{} starts one.", Action.SUBMIT, ("FILE",)))
        return newest
    text = str(run)
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"{text!r} is no run. A run is named by its number, or by `last` for the newest one.")
    number = int(text[:20])
    if number > LARGEST_NUMBER or not tx.execute(select(RUN.id).where(RUN.id == number)).scalar():
        raise no_run(tx, text[:20])
    return number


def run_row(tx: Tx, run: int) -> RunRow:
    """The run's row; raises NotFound."""
    row = tx.execute(RUN_ROWS.where(RUN.id == run)).one_or_none()
    if row is None:
        raise no_run(tx, run)
    return RunRow._make(row)


def newest_run(tx: Tx) -> int | None:
    """The number of the newest run."""
    return tx.execute(select(func.max(RUN.id))).scalar()


def find_job(tx: Tx, name: str) -> int:
    """The id of the job; raises NotFound, with the closest name."""
    return int(_find(tx, "job", JOB.id, name))


def definition(tx: Tx, name: str) -> str:
    """The job's newest definition as JSON; raises NotFound, with the closest name."""
    return str(_find(tx, "job", JOB.definition, name))


def find_task(tx: Tx, run: int, name: str) -> int:
    """The id of the run's task of that name; raises NotFound, with the closest name."""
    found = tx.execute(select(TASK.id).where(TASK.run_id == run, TASK.name == name, ~TASK.unnamed)).scalar()
    if found is None:
        raise no_task(tx, run, name)
    return int(found)


def find_server(tx: Tx, name: str) -> int:
    """The id of the server; raises NotFound, with the closest name."""
    return int(_find(tx, "server", SERVER.id, name))


def find_limit(tx: Tx, name: str) -> str:
    """The limit's name, if there is one; raises NotFound, with the closest (rule 29)."""
    return str(_find(tx, "limit", LIMIT.name, name))


def find_group(tx: Tx, name: str) -> str:
    """The group's name, if there is one; raises NotFound, with the closest (rule 13)."""
    return str(_find(tx, "group", GROUP.name, name))


def _find(tx: Tx, kind: str, column: ColumnElement[T], name: str) -> T:
    found = tx.execute(select(column).where(NAMES[kind] == name)).scalar()
    if found is None:
        raise no_such(kind, name, tx.execute(select(NAMES[kind]).order_by(NAMES[kind])).scalars())
    return found


# --- the sentences ------------------------------------------------------------------------------------------

NO_RUN_YET = "There is no run yet."
LISTS = {
    "job": Action.LIST_JOBS,
    "server": Action.LIST_SERVERS,
    "group": Action.LIST_GROUPS,
    "limit": Action.LIST_LIMITS,
}


def no_run(tx: Tx, run: int | str) -> NotFound:
    """The error for a run that does not exist, with the newest one."""
    newest = newest_run(tx)
    return NotFound(f"No run {run}. " + (f"The newest is {newest}." if newest else NO_RUN_YET))


def no_task(tx: Tx, run: int, name: str) -> NotFound:
    """The error for a task that the run does not have, with the closest name."""
    names = tx.execute(select(TASK.name).where(TASK.run_id == run, ~TASK.unnamed).order_by(TASK.id)).scalars()
    advice = Advice(f"{{}} shows the tasks of run {run}.", Action.LIST_TASKS, (str(run),))
    return unknown("task", name, names, advice=advice)


def no_such(kind: str, name: str, names: Iterable[str]) -> NotFound:
    """The error for a job, server or group that does not exist, with the closest of the `names`."""
    return unknown(kind, name, names, advice=Advice(f"{{}} shows all {kind}s.", LISTS[kind]))
