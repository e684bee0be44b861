"""The facts of limits that say why a ready task does not start: who has the units, and for whom some are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import cached_property, partial

from sqlalchemy import func, select

from batchq.core import lacking
from batchq.core.limits import Lane, Units, place
from batchq.core.priority import AGING, in_order
from batchq.core.topology import Topology
from batchq.store.columns import IN_LINE, LANE, LANE_IS_OPEN, MAY_START, OUT, RUN, SERVER, TASK, run_of
from batchq.store.lane import lanes_of
from batchq.store.moves import Occupancy
from batchq.store.tables import Lane as LaneRow
from batchq.store.tables import Run, Server, TaskRow
from batchq.store.transaction import Tx
from batchq.views.rows import Query, Selected

# Tasks that may keep units are looked at so far.
KEEPERS = 100
# Named limits are told first, then that of the run, and that of the job last.
_ORDER = ("limit:", "run:", "job:")


class UnitsSeen:
    """Says which unit a ready task lacks; each statement is asked once, and only if a task has limits."""

    def __init__(self, tx: Tx, topology: Topology, occupancy: Occupancy, now: datetime, aging: float) -> None:
        self._tx = tx
        self._topology = topology
        self._occupancy = occupancy
        self._now = now
        self._aging = aging

    def why(self, task: Selected, job: str) -> str | None:
        """Which unit the task lacks or who has it kept, in one clause; None if it lacks none. `job` is its own."""
        lane = self._lanes(task.lane)
        if not lane.keys:
            return None
        for key in sorted(lane.keys, key=lambda key: (_ORDER.index(key.partition(":")[0] + ":"), key)):
            units = self._units.units(lane, key)
            if units is not None and self._units.free(lane, key) <= 0:
                used = self._units.in_use(lane, key)
                full = lacking.Full(key, lane.group, units, used, self._holders(key), run_of(task.id), job)
                return lacking.lacks(full, self._kept_for_it(task, lane))
        return self._kept_from(task, lane)

    def behind(self, task: Selected) -> str | None:
        """A clause about tasks of a higher class, which go first for ever where aging is off; None otherwise."""
        if self._aging > 0:
            return None
        mine = set(self._topology.taking(task.group_name))
        higher = (
            select(LANE.group_name, func.count().label("number"))
            .select_from(TaskRow)
            .join(LaneRow, LANE.id == TASK.lane)
            .where(IN_LINE, TASK.own_class > task.own_class)
            .group_by(LANE.group_name)
        )
        rows = self._tx.execute(higher).all()
        number = sum(row.number for row in rows if not mine.isdisjoint(self._topology.taking(row.group_name)))
        return lacking.behind(number) if number else None

    def _lanes(self, lane: int) -> Lane:
        return lanes_of(self._tx, [lane])[lane]

    @cached_property
    def _units(self) -> Units:
        return Units(self._topology, self._used)

    @cached_property
    def _used(self) -> Mapping[Lane, int]:
        _, executing, out = self._occupancy
        lanes = lanes_of(self._tx, {*executing, *out})
        return {lanes[lane]: executing.get(lane, 0) + out.get(lane, 0) for lane in {*executing, *out}}

    @cached_property
    def _out(self) -> list[Selected]:
        """The tasks that have units, executing ones first."""
        tasks: Query = select(TASK.lane, TASK.run_id, TASK.name, RUN.job, SERVER.name.label("server"))
        tasks = tasks.select_from(TaskRow).join(Run, RUN.id == TASK.run_id)
        tasks = tasks.outerjoin(Server, SERVER.id == TASK.server_id).where(OUT)
        return list(self._tx.execute(tasks.order_by(SERVER.name.is_(None), TASK.id)).all())

    def _holders(self, key: str) -> list[str]:
        return [lacking.holder(row.job, row.name, row.server) for row in self._out if key in self._lanes(row.lane).keys]

    # --- kept units (rule 29e) ------------------------------------------------------------------------------

    def _kept_for_it(self, task: Selected, lane: Lane) -> list[str]:
        return [lacking.limit_name(key) for key in lane.keys if task.id in self._kept.get(place(lane, key), {})]

    def _kept_from(self, task: Selected, lane: Lane) -> str | None:
        for key in lane.keys:
            keepers = self._kept.get(place(lane, key), {})
            if keepers and task.id not in keepers and self._left.free(lane, key) <= 0:
                return next(iter(keepers.values()))(key)
        return None

    @cached_property
    def _left(self) -> Units:
        """The units that are free once all that wait long have kept theirs."""
        return Units(self._topology, self._used)

    @cached_property
    def _kept(self) -> dict[str, dict[int, Callable[[str], str]]]:
        """By limit, the tasks for which a free unit is kept, by id, each with its clause."""
        found: defaultdict[str, dict[int, Callable[[str], str]]] = defaultdict(dict)
        for row in self._keepers():
            lane = self._lanes(row.lane)
            if self._left.take(lane):
                self._left.give_back(lane)
                continue
            for key in lane.keys:
                if self._left.free(lane, key) > 0:
                    found[place(lane, key)][row.id] = partial(lacking.kept_for, job=row.job, task=row.name)
            self._left.keep(lane)
        return found

    def _keepers(self) -> Iterator[Selected]:
        """The tasks of several limits that have waited long and could start but for their units, the best first."""
        several = (LANE_IS_OPEN, LANE.limits.contains(","))
        lanes = [self._lanes(lane) for lane in self._tx.execute(select(LANE.id).where(*several)).scalars()]
        opened = self._topology.threads_now(self._now)
        able = [lane.id for lane in lanes if any(server in opened for server in self._topology.taking(lane.group))]
        patience = timedelta(seconds=self._aging or AGING)
        tasks: Query = select(TASK.id, TASK.lane, TASK.name, TASK.own_class, TASK.ready_at, RUN.job)
        tasks = tasks.join(Run, RUN.id == TASK.run_id).where(IN_LINE, MAY_START, TASK.lane.in_(able))
        tasks = tasks.where(TASK.ready_at <= self._now - patience).order_by(TASK.ready_at).limit(KEEPERS)
        yield from in_order(self._tx.execute(tasks).all(), self._now, self._aging)
