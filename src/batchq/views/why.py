"""Why something waits, or didn't run: one clause for each task and each group (rule 40)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TypedDict

from sqlalchemy import func, select

from batchq.core import why
from batchq.core.conditions import After, Condition, Join, Node, Written, folded, resolution
from batchq.core.priority import AGING
from batchq.core.states import NOT_STARTED, Outcome, RunState, State
from batchq.core.topology import Topology
from batchq.core.why import waits_for, why_not
from batchq.store import moves, topology
from batchq.store.columns import CONDITION, CONDITIONS_AT, RUN, TASK, run_of
from batchq.store.tables import TaskCondition, TaskRow
from batchq.store.transaction import Tx
from batchq.views.instants import clock
from batchq.views.rows import Query, Selected
from batchq.views.units import UnitsSeen

_HOLD = (RUN.held, RUN.held_by, RUN.held_at, RUN.held_why)
_BLOCKED = (State.WAITING.value, State.DIDNT_RUN.value)
_EXPLAINED = frozenset({*NOT_STARTED, State.DIDNT_RUN})


class ConditionView(TypedDict):
    """A condition of a task; `met` is null until it is resolved."""

    task: str
    outcome: str
    handles: bool
    met: bool | None
    status: str


class Reasons:
    """Says why ready tasks do not start; reads servers and their load once, and only if needed (rule 40).

    Instants are told in the user's `timezone`; without one, in the zone of the window that decides. `job` is that of
    the tasks, and a task rises by a class each `aging` seconds.
    """

    def __init__(
        self, tx: Tx, now: datetime | None, timezone: str | None = None, *, aging: float = AGING, job: str = ""
    ) -> None:
        self._tx = tx
        self._now = now
        self._timezone = timezone
        self._aging = aging
        self._job = job
        self._of_groups: dict[str, str] = {}
        self._of_runs: dict[int, str | None] = {}

    @cached_property
    def now(self) -> datetime:
        """The instant that reasons are given for."""
        return self._now or clock(self._tx)

    @cached_property
    def topology(self) -> Topology:
        """All servers as they stand."""
        return topology.read(self._tx)

    @cached_property
    def busy(self) -> dict[int, int]:
        """How many tasks each server executes."""
        return self._occupancy.busy

    @cached_property
    def _occupancy(self) -> moves.Occupancy:
        return moves.occupancy(self._tx)

    @cached_property
    def _units(self) -> UnitsSeen:
        return UnitsSeen(self._tx, self.topology, self._occupancy, self.now, self._aging)

    def _local(self, instant: datetime) -> str:
        return why.local(instant, self._timezone or "UTC", self.now)

    def of_run(self, run: int) -> str | None:
        """Why nothing of the run starts, in one clause; None if its tasks may start."""
        self.look_at([run])
        return self._of_runs[run]

    def look_at(self, runs: Iterable[int]) -> None:
        """Read how these runs stand, in one statement."""
        if fresh := sorted(set(runs) - self._of_runs.keys()):
            found: Query = select(RUN.id, RUN.status, RUN.open_tasks, *_HOLD).where(RUN.id.in_(fresh))
            self._of_runs |= {row.id: self._why_of_run(row) for row in self._tx.execute(found).all()}

    def _why_of_run(self, run: Selected) -> str | None:
        if run.status == RunState.STORING:
            its = select(func.count()).select_from(TaskRow).where(TASK.run_id == run.id)
            return why.storing(self._tx.execute(its).scalar_one(), run.open_tasks)
        if not run.held:
            return None
        return why.held(run.id, run.held_by, run.held_at and self._local(run.held_at), run.held_why)

    def of_group(self, group: str) -> str:
        """Why ready tasks of the group do not start, in one clause."""
        if group not in self._of_groups:
            reason = why.why_ready(group, self.topology, self.busy, self.now, self._timezone)
            self._of_groups[group] = reason
        return self._of_groups[group]

    def of_task(self, task: Selected) -> str:
        """Why this ready or queued task does not start, in one clause."""
        if task.attempt and task.ready_at > self.now:
            return why.delayed(task.attempt, self._local(task.ready_at))
        if task.status != State.READY or not (self.topology.has_limits or self._aging <= 0):
            return self.of_group(task.group_name)
        return why.why_ready(
            task.group_name,
            self.topology,
            self.busy,
            self.now,
            self._timezone,
            lacks=lambda: self._units.why(task, self._job),
            behind=lambda: self._units.behind(task),
        )


# --- all tasks of a run -------------------------------------------------------------------------------------


def why_of_tasks(tx: Tx, run: int, tasks: Sequence[Selected], reasons: Reasons) -> dict[int, str]:
    """The reason of each task that has not started or didn't run, by its id; linear in tasks and conditions."""
    explained = [task for task in tasks if State(task.status) in _EXPLAINED]
    if not explained:
        return {}
    states = {task.name: State(task.status) for task in tasks}
    after = _conditions_of_blocked(tx, run, {task.id: task.name for task in tasks})
    found = {}
    for task in explained:
        if task.status in NOT_STARTED and (kept := reasons.of_run(run)):
            found[task.id] = kept
            continue
        node = Node(after.get(task.id, ()), Join(task.joined))
        found[task.id] = _why_blocked(states[task.name], node, states) or reasons.of_task(task)
    return found


def _conditions_of_blocked(tx: Tx, run: int, names: Mapping[int, str]) -> dict[int, After]:
    written = _written(tx, _conditions(run).where(TASK.status.in_(_BLOCKED), ~TASK.unnamed), names)
    inner = any(task not in names for conditions in written.values() for task, _ in conditions)
    gates = _gates(tx, run, names) if inner else {}
    return {task: folded(conditions, gates) for task, conditions in written.items()}


def _written(tx: Tx, conditions: Query, names: Mapping[int, str]) -> dict[int, list[Written[int]]]:
    """The conditions by the id of their task, each with the id of the task that it is on."""
    found: dict[int, list[Written[int]]] = {}
    for row in tx.execute(conditions):
        condition = Condition(names.get(row.predecessor_id, ""), Outcome(row.outcome), row.handles)
        found.setdefault(row.id, []).append((row.predecessor_id, condition))
    return found


def _gates(tx: Tx, run: int, names: Mapping[int, str]) -> dict[int, tuple[Join, list[Written[int]]]]:
    """The gates without a name, which stand for joins within joins (rule 50)."""
    joins = tx.execute(select(TASK.id, TASK.joined).where(TASK.run_id == run, TASK.unnamed))
    written = _written(tx, _conditions(run).where(TASK.unnamed), names)
    return {row.id: (Join(row.joined), written[row.id]) for row in joins}


def _why_blocked(state: State, node: Node, states: dict[str, State]) -> str | None:
    if state is State.WAITING:
        return waits_for(node, states)
    return why_not(node, states) if state is State.DIDNT_RUN else None


_CONDITIONS = (
    select(TASK.id, CONDITION.task_id, CONDITION.predecessor_id, CONDITION.outcome, CONDITION.handles)
    .select_from(TaskRow)
    .join(TaskCondition, CONDITION.task_id == CONDITIONS_AT)
    .order_by(TASK.id, CONDITION.predecessor_id, CONDITION.outcome)
)


def _conditions(run: int) -> Query:
    return _CONDITIONS.where(TASK.run_id == run)


# --- single tasks -------------------------------------------------------------------------------------------


def why_of_task(tx: Tx, row: Selected, reasons: Reasons) -> str | None:
    """The reason of one task, by its conditions as they stand; None if it started."""
    return why_of_each(tx, [row], reasons).get(row.id)


def why_of_each(tx: Tx, rows: Iterable[Selected], reasons: Reasons) -> dict[int, str | None]:
    """The reasons of tasks of any runs that have not started or didn't run, by id; all are read together."""
    explained = [row for row in rows if State(row.status) in _EXPLAINED]
    reasons.look_at(run_of(row.id) for row in explained)
    kept = {row.id: reasons.of_run(run_of(row.id)) for row in explained if row.status in NOT_STARTED}
    open_ = [row for row in explained if not kept.get(row.id)]
    blocked = _why_of_conditions(tx, [row for row in open_ if row.status in _BLOCKED])
    told = {row.id: blocked.get(row.id) or (reasons.of_task(row) if row.id in kept else None) for row in open_}
    return kept | told


def _why_of_conditions(tx: Tx, rows: Sequence[Selected]) -> dict[int, str | None]:
    """Why the conditions of tasks keep them; reads the tasks that these name, or a whole run for joins in them."""
    if not rows:
        return {}
    conditions = _CONDITIONS.where(TASK.id.in_([row.id for row in rows]))
    before = conditions.with_only_columns(CONDITION.predecessor_id).order_by(None)
    tasks = select(TASK.id, TASK.name, TASK.status, TASK.unnamed)
    found = list(tx.execute(tasks.where(TASK.id.in_(before.scalar_subquery()))))
    joined = {run_of(task.id) for task in found if task.unnamed}
    for run in joined:
        found += tx.execute(tasks.where(TASK.run_id == run, ~TASK.unnamed))
    names = {task.id: task.name for task in found if not task.unnamed}
    gates = {run: _gates(tx, run, names) for run in joined}
    states: dict[int, dict[str, State]] = {}
    for task in found:
        states.setdefault(run_of(task.id), {})[task.name] = State(task.status)
    written = _written(tx, conditions, names)
    nodes = {
        row.id: Node(folded(written.get(row.id, []), gates.get(run_of(row.id), {})), Join(row.joined)) for row in rows
    }
    return {row.id: _why_blocked(State(row.status), nodes[row.id], states.get(run_of(row.id), {})) for row in rows}


def conditions_of(tx: Tx, run: int, task: int) -> list[ConditionView]:
    """The conditions of a task, also those in joins, each with how its predecessor stands."""
    before = TaskRow.__table__.alias("before")
    end = (before.c.unnamed, before.c.status, before.c.claimed_at, before.c.unsettled, before.c.settled_up_to)
    conditions = _conditions(run).add_columns(before.c.name, *end)
    joined = conditions.join(before, before.c.id == CONDITION.predecessor_id)
    found: list[ConditionView] = []
    tasks = [task]
    for each in tasks:  # it grows: a join within the conditions has conditions of its own
        for condition in tx.execute(joined.where(TASK.id == each)):
            if condition.unnamed:
                tasks.append(condition.predecessor_id)
                continue
            view: ConditionView = {
                "task": condition.name,
                "outcome": condition.outcome,
                "handles": condition.handles,
                "met": _met(condition),
                "status": condition.status,
            }
            found.append(view)
    return found


def _met(condition: Selected) -> bool | None:
    """Whether the condition came true, by how its predecessor stands; None while it is not resolved."""
    state = State(condition.status)
    if condition.unsettled and condition.task_id > (condition.settled_up_to or 0):
        return None
    # Conditions on a task canceled before it started stay unresolved: the tasks that wait for it are canceled as well.
    return (
        None
        if state is State.CANCELED and condition.claimed_at is None
        else resolution(Outcome(condition.outcome), state)
    )
