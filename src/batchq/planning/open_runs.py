"""The open runs: started and not ended, with all their tasks and conditions as they stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from sqlalchemy import select

from batchq.core.conditions import After, Condition, Join, folded
from batchq.core.states import Outcome, RunState
from batchq.store.columns import CONDITION, RUN, TASK
from batchq.store.find import RUN_ROWS, RunRow
from batchq.store.tables import TaskRow
from batchq.store.transaction import Tx

OPEN = (RunState.EXECUTING.value, RunState.CANCELING.value)
STARTED_RUNS = select(RUN.id).where(RUN.status.in_(OPEN)).scalar_subquery()


class OpenTask(NamedTuple):
    """A stored task of an open run, without its result, its error and its ticket."""

    id: int
    run_id: int
    name: str
    operation: str
    args: str
    kwargs: str
    group_name: str
    lane: int
    own_class: int
    own_priority: bool
    retries: int
    retry_delay: float
    retried_at: int
    policy: str | None
    time_limit: float | None
    ignore_failure: bool
    gate: bool
    unnamed: bool
    joined: str
    pending: int
    met: int
    impossible: int
    waits_with: int | None
    sharing: int
    status: str
    unsettled: bool
    settled_up_to: int | None
    attempt: int
    offers: int
    server_id: int | None
    epoch: int | None
    ready_at: datetime | None
    queued_at: datetime | None
    claimed_at: datetime | None
    ended_at: datetime | None


class OpenCondition(NamedTuple):
    """A condition of a task of an open run."""

    task_id: int
    predecessor_id: int
    outcome: str
    handles: bool


@dataclass(frozen=True)
class OpenRun:
    """The row of an open run, the rows of its tasks by id, and rows of conditions by the id of their task.

    Tasks may share conditions, which then stand under the id of one of them.
    """

    row: RunRow
    tasks: Mapping[int, OpenTask]
    conditions: Mapping[int, Sequence[OpenCondition]]

    def after(self, task: OpenTask) -> After:
        """The conditions of one of its tasks, with joins in the place of their gates."""
        return folded(self._written(task), self._gates)

    def _written(self, task: OpenTask) -> list[tuple[int, Condition]]:
        rows = self.conditions.get(task.waits_with or task.id, ())
        return [
            (row.predecessor_id, Condition(self.tasks[row.predecessor_id].name, Outcome(row.outcome), row.handles))
            for row in rows
        ]

    @cached_property
    def _gates(self) -> dict[int, tuple[Join, list[tuple[int, Condition]]]]:
        gates = [task for task in self.tasks.values() if task.unnamed]
        return {task.id: (Join(task.joined), self._written(task)) for task in gates}


def open_runs(tx: Tx) -> list[OpenRun]:
    """All runs that have started and not ended, the oldest first."""
    runs = tx.execute(RUN_ROWS.where(RUN.status.in_(OPEN)).order_by(RUN.id))
    found = [RunRow._make(row) for row in runs]
    tasks: defaultdict[int, dict[int, OpenTask]] = defaultdict(dict)
    of_runs = select(*(TASK[field] for field in OpenTask._fields)).where(TASK.run_id.in_(STARTED_RUNS))
    for task in map(OpenTask._make, tx.execute(of_runs.order_by(TASK.id))):
        tasks[task.run_id][task.id] = task
    conditions: defaultdict[int, list[OpenCondition]] = defaultdict(list)
    of_tasks = select(*(CONDITION[field] for field in OpenCondition._fields)).join(
        TaskRow, TASK.id == CONDITION.task_id
    )
    of_tasks = of_tasks.where(TASK.run_id.in_(STARTED_RUNS)).order_by(CONDITION.task_id, CONDITION.predecessor_id)
    for condition in map(OpenCondition._make, tx.execute(of_tasks)):
        conditions[condition.task_id].append(condition)
    return [OpenRun(run, tasks[run.id], conditions) for run in found]
