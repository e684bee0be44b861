"""Tasks of one run or of all, as a list chooses them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from sqlalchemy import func, or_, select

from batchq.core.states import TERMINAL, State
from batchq.store import moves
from batchq.store.columns import FAILED, RUN, RUN_IS_OPEN, TASK, run_of, task_id
from batchq.store.tables import Run
from batchq.store.transaction import Tx
from batchq.views.instants import iso
from batchq.views.rows import Query, Selected
from batchq.views.run import TASK_COLUMNS, ended_since, run_view
from batchq.views.task import TaskLine, task_line, with_server
from batchq.views.why import Reasons, why_of_each

# Runs whose tasks one statement reads: few at first, for most lists are full at once.
FIRST_PAGE, LARGEST_PAGE = 20, 500
REASONS_AT_ONCE = 1000  # tasks whose conditions one statement reads
_FAILING = frozenset({State.ERROR, State.CANCELED})
_TERMINAL = [state.value for state in TERMINAL]


class ListedTask(TaskLine):
    """A task in a list, with its run and its job."""

    run: int
    job: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """Filters of a list of tasks: a task must fit each that is set.

    `since` leaves out what ended before that instant; a task that has not ended is always recent.
    """

    statuses: frozenset[State] = frozenset()
    since: datetime | None = None
    job: str | None = None
    group: str | None = None
    stage: str | None = None

    @property
    def may_be_rare(self) -> bool:
        """Whether few tasks may fit, and no index leads to them."""
        if self.statuses:
            return not self.statuses <= _FAILING and not self.statuses.isdisjoint(TERMINAL)
        return self.stage is not None or self.group is not None

    def fits(self, task: ListedTask) -> bool:
        """Whether a task that was read fits."""
        return (
            (not self.statuses or task["status"] in self.statuses)
            and (self.since is None or task["ended_at"] is None or task["ended_at"] >= iso(self.since))
            and self.job in (None, task["job"])
            and self.group in (None, task["group"])
            and self.stage in (None, task["stage"])
        )


ALL = Chosen()


def tasks(
    tx: Tx,
    chosen: Chosen = ALL,
    *,
    run: int | None = None,
    limit: int | None = None,
    now: datetime | None = None,
    timezone: str | None = None,
) -> list[ListedTask]:
    """The tasks of a run, or of all runs, that fit: the newest run first, in each run the order of the job.

    At most `limit`. Raises NotFound for a run that does not exist.
    """
    if run is not None:
        return list(islice(filter(chosen.fits, _of_run(tx, run, now, timezone)), limit))
    return _lines(tx, _found(tx, chosen, limit), Reasons(tx, now, timezone))


def _of_run(tx: Tx, run: int, now: datetime | None, timezone: str | None) -> Iterator[ListedTask]:
    view = run_view(tx, run, now, timezone=timezone)
    return ({"run": run, "job": view["job"], **task} for task in view["tasks"])


# --- of all runs --------------------------------------------------------------------------------------------


def _found(tx: Tx, chosen: Chosen, limit: int | None) -> list[Selected]:
    """The rows of the tasks that fit; page after page of runs, until there are enough."""
    rows: list[Selected] = []
    walked = limit is not None and chosen.may_be_rare
    for page in _pages_of_tasks(tx, chosen, limit) if walked else _pages(tx, chosen):
        rest = None if limit is None else limit - len(rows)
        rows += tx.execute(_of_page(page, chosen).limit(rest))
        if limit is not None and len(rows) >= limit:
            break
    return rows


def _pages(tx: Tx, chosen: Chosen) -> Iterator[list[int]]:
    """The runs that may have tasks that fit, the newest first."""
    size, before = FIRST_PAGE, None
    runs = _runs(chosen)
    while True:
        older = runs if before is None else runs.where(RUN.id < before)
        page = list(tx.execute(older.limit(size)).scalars())
        if page:
            yield page
        if len(page) < size:
            return
        before, size = page[-1], min(2 * size, LARGEST_PAGE)


def _pages_of_tasks(tx: Tx, chosen: Chosen, limit: int | None) -> Iterator[list[int]]:
    """The runs of the newest tasks that fit, by one walk over tasks: a join for each would take many times as long."""
    oldest = None
    if chosen.since is not None:
        oldest = tx.execute(_runs(chosen).with_only_columns(func.min(RUN.id)).order_by(None)).scalar()
        if oldest is None:
            return
    tasks = _fitting(select(TASK.run_id), chosen).order_by(TASK.id.desc()).limit(limit)
    if oldest is not None:
        tasks = tasks.where(TASK.id >= task_id(oldest, 0))
    if chosen.job is not None:
        tasks = tasks.where(TASK.run_id.in_(select(RUN.id).where(RUN.job == chosen.job)))
    runs = list(dict.fromkeys(tx.execute(tasks).scalars()))
    for first in range(0, len(runs), LARGEST_PAGE):
        yield runs[first : first + LARGEST_PAGE]


def _runs(chosen: Chosen) -> Query:
    runs = select(RUN.id).order_by(RUN.id.desc())
    if chosen.statuses and not chosen.statuses & TERMINAL:
        runs = runs.where(RUN_IS_OPEN)  # by its index, for most runs have ended
    elif chosen.statuses and chosen.statuses <= _FAILING:
        runs = runs.where(RUN.id.in_(select(TASK.run_id).where(FAILED)))  # by an index too: most tasks end well
    if chosen.job is not None:
        runs = runs.where(RUN.job == chosen.job)
    return runs if chosen.since is None else runs.where(ended_since(chosen.since))


def _of_page(runs: Collection[int], chosen: Chosen) -> Query:
    """The tasks of these runs that fit."""
    rows = with_server((*TASK_COLUMNS, TASK.result, RUN.job)).join(Run, RUN.id == TASK.run_id)
    return _fitting(rows, chosen).where(TASK.run_id.in_(runs)).order_by(TASK.run_id.desc(), TASK.id)


def _fitting(rows: Query, chosen: Chosen) -> Query:
    """The rows of tasks that fit, but for the job."""
    rows = rows.where(TASK.unnamed.is_(False))
    if chosen.statuses and chosen.statuses <= _FAILING:
        rows = rows.where(FAILED)
    if chosen.statuses:
        rows = rows.where(TASK.status.in_([state.value for state in chosen.statuses]))
    if chosen.since is not None:
        rows = rows.where(or_(TASK.status.not_in(_TERMINAL), TASK.ended_at >= chosen.since))
    for column, value in ((TASK.group_name, chosen.group), (TASK.stage, chosen.stage)):
        rows = rows if value is None else rows.where(column == value)
    return rows


def _lines(tx: Tx, rows: Sequence[Selected], reasons: Reasons) -> list[ListedTask]:
    """The lines of tasks of several runs, each with its reason."""
    handled = moves.handlers(tx, [row.id for row in rows if row.status in _FAILING])
    why: dict[int, str | None] = {}
    for first in range(0, len(rows), REASONS_AT_ONCE):
        why |= why_of_each(tx, rows[first : first + REASONS_AT_ONCE], reasons)
    return [
        {"run": run_of(row.id), "job": row.job, **task_line(row, why.get(row.id), handled.get(row.id))} for row in rows
    ]
