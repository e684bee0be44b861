"""The open runs: started and not ended, with all their tasks and conditions as they stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from batchq.core.states import RunState
from batchq.store.columns import CONDITION, RUN, TASK
from batchq.store.tables import Run, Task
from batchq.store.transaction import Tx
from batchq.views.rows import Selected

OPEN = (RunState.EXECUTING.value, RunState.CANCELING.value)
STARTED_RUNS = select(RUN.id).where(RUN.status.in_(OPEN)).scalar_subquery()


@dataclass(frozen=True, slots=True)
class OpenRun:
    """The row of an open run, the rows of its tasks by id, and rows of conditions by the id of their task.

    Tasks may share conditions, which then stand under the id of one of them.
    """

    row: Selected
    tasks: Mapping[int, Selected]
    conditions: Mapping[int, Sequence[Selected]]

    def after(self, task: Selected) -> Sequence[Selected]:
        """The conditions of one of its tasks."""
        return self.conditions.get(task.waits_with or task.id, ())


def open_runs(tx: Tx) -> list[OpenRun]:
    """All runs that have started and not ended, the oldest first."""
    runs = tx.execute(select(Run.__table__).where(RUN.status.in_(OPEN)).order_by(RUN.id)).all()
    tasks: defaultdict[int, dict[int, Selected]] = defaultdict(dict)
    for row in tx.execute(select(*_TASK_COLUMNS).where(TASK.run_id.in_(STARTED_RUNS)).order_by(TASK.id)):
        tasks[row.run_id][row.id] = row
    conditions: defaultdict[int, list[Selected]] = defaultdict(list)
    of_tasks = select(*_CONDITION_COLUMNS).join(Task, TASK.id == CONDITION.task_id)
    for row in tx.execute(
        of_tasks.where(TASK.run_id.in_(STARTED_RUNS)).order_by(CONDITION.task_id, CONDITION.predecessor_id)
    ):
        conditions[row.task_id].append(row)
    return [OpenRun(run, tasks[run.id], conditions) for run in runs]


_TASK_COLUMNS = [column for column in TASK if column.name not in ("error", "result", "token")]
_CONDITION_COLUMNS = (CONDITION.task_id, CONDITION.predecessor_id, CONDITION.outcome, CONDITION.handles)
