"""The columns of every table, and the words in which statements test them; whatever writes SQL starts here."""

from __future__ import annotations

from sqlalchemy import and_, func, literal_column
from sqlalchemy.sql.elements import ColumnElement

from batchq.core.states import State
from batchq.store.sql.no_index import InNoIndex
from batchq.store.tables import (
    AttemptRow,
    Audit,
    Dispatch,
    Group,
    JobRow,
    Lane,
    Limit,
    Run,
    Server,
    ServerGroup,
    ServerWindow,
    TaskCondition,
    TaskRow,
    Trouble,
)

JOB = JobRow.__table__.c
RUN = Run.__table__.c
TASK = TaskRow.__table__.c
CONDITION = TaskCondition.__table__.c
ATTEMPT = AttemptRow.__table__.c
AUDIT = Audit.__table__.c
SERVER = Server.__table__.c
GROUP = Group.__table__.c
LANE = Lane.__table__.c
LIMIT = Limit.__table__.c
BINDING = ServerGroup.__table__.c
WINDOW = ServerWindow.__table__.c
DISPATCH = Dispatch.__table__.c
TROUBLE = Trouble.__table__.c

POSITION_BITS = 20  # bits of a task's id that hold its position in its run


def task_id(run: int, position: int) -> int:
    """The id of the task at `position` (from 0) of the run."""
    return run << POSITION_BITS | position


def run_of(task: int) -> int:
    """The run that a task belongs to."""
    return task >> POSITION_BITS


def status_in_index(*states: State) -> ColumnElement[bool]:
    """A task's `status` is one of `states`, in the words of the partial indexes; use it where such an index serves."""
    words = ", ".join(f"'{state.value}'" for state in states)
    test = f"IN ({words})" if len(states) > 1 else f"= {words}"
    # Without a type: SQLAlchemy would write a Boolean as `(…) = 1`, and SQLite would use no index for it.
    return literal_column(f"batchq_task.status {test}")


def status_is(state: State) -> InNoIndex:
    """A task's `status` is `state`; use it where rows are found by id, so that no partial index is searched instead."""
    return InNoIndex(TASK.status, state.value)


# A ready task that dispatch looks at; one of a held run lies aside. In the words of the index of ready tasks.
IN_LINE = and_(status_in_index(State.READY), literal_column("NOT batchq_task.aside"))
# SQLite uses a partial index only for a query that repeats the index's own words.
OUT = status_in_index(State.QUEUED, State.EXECUTING)
FAILED = status_in_index(State.ERROR, State.CANCELED)
FAILED_ATTEMPT: ColumnElement[bool] = literal_column("batchq_attempt.status <> 'success'")
RUN_IS_OPEN: ColumnElement[bool] = literal_column("batchq_run.status IN ('storing', 'executing', 'canceling')")
# A run of which tasks may start.
MAY_START = and_(literal_column("NOT batchq_run.held"), literal_column("batchq_run.status = 'executing'"))
# Rows of the run are left to be moved by a hold, a release or a cancel.
MOVING: ColumnElement[bool] = literal_column("batchq_run.moving_from IS NOT NULL")
LANE_IS_OPEN: ColumnElement[bool] = literal_column("NOT batchq_lane.closed")
STORING = and_(RUN_IS_OPEN, RUN.status == literal_column("'storing'"))

# The task whose id a task's conditions carry: another one that it shares them with, or itself.
CONDITIONS_AT = func.coalesce(TASK.waits_with, TASK.id)
