"""The engine does what `core.simulation` foretells: random nights, on a clock that jumps from event to event."""

from __future__ import annotations

import random
from datetime import UTC, datetime, time, timedelta

import pytest
from sqlalchemy import select

from batchq.core.conditions import Join
from batchq.core.simulated import SimRun, SimTask, Simulation
from batchq.core.simulation import simulate
from batchq.core.topology import Server, Topology
from batchq.core.windows import Window, next_change
from batchq.spec import JobSpec, TaskSpec
from batchq.store import topology as topologies
from batchq.store.columns import TASK
from play import Clocked, Play
from support import rules
from support.nodes import condition_of
from support.seeds import seeds

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
GROUPS = ("default", "BG1", "BG2")
PRIORITIES = ("low", "normal", "high", "critical")
SECONDS = 90
END = NOON + timedelta(seconds=SECONDS + 0.5)  # no task ends at that very instant


@pytest.mark.parametrize("seed", seeds(8, 20))
def test_a_random_night_goes_as_it_was_planned(database: Clocked, seed: int):
    rng = random.Random(seed)
    night = Night(database, rng)
    simulation = night.simulation()
    night.play(simulation)

    planned = {task.task: (task.state.value, task.server, task.started_at, task.ended_at) for task in simulation.tasks}
    assert night.course() == planned
    (close,) = simulation.jobs
    assert night.engine.verdict(night.run) == (close.verdict or "executing")


class Night:
    """A random job on random servers, on the real engine and database."""

    def __init__(self, database: Clocked, rng: random.Random) -> None:
        self.database = database
        database.instant = NOON
        self.engine = Play(database, fast_path=False)
        for number in range(1, rng.randint(1, 3) + 1):
            windows = [self.window(rng) for _ in range(rng.randint(0, 2))]
            groups = [group for group in GROUPS if rng.random() < rng.choice([0, 0.5])]
            self.engine.server(f"AOS{number}", rng.randint(0, 3), groups=groups, windows=windows)
        shape = rules.random_plan(rng.randint(2, 25), rng, levels=rng.choice([0, 3]), gates=rng.choice([0, 0.2]))
        self.seconds = {name: rng.choice([0, 1, 3, 7, 11]) for name in shape.after}
        self.failing = {name for name in shape.after if rng.random() < 0.2}
        self.job = JobSpec(name="J", tasks=tuple(self.task(name, shape, rng) for name in shape.after))

    def window(self, rng: random.Random) -> Window:
        start, end = ((NOON + rng.randint(-3, SECONDS) * SECOND).time() for _ in range(2))
        return Window(start, end if end != start else time(11), rng.randint(0, 3), "UTC")

    def task(self, name: str, shape: rules.Plan, rng: random.Random) -> TaskSpec:
        if name in shape.gates:
            return TaskSpec(name=name, after=tuple(map(condition_of, shape.after[name])), join=Join(shape.joins[name]))
        return TaskSpec(
            name=name,
            run="demo.work",
            after=tuple(map(condition_of, shape.after[name])),
            join=Join(shape.joins[name]),
            group=rng.choice(GROUPS),
            priority=rng.choice(PRIORITIES),
            retries=rng.choice([0, 0, 1, 2]),
            retry_delay=rng.choice([0, 4]),
            ignore_failure=name in shape.ignored,
        )

    def topology(self) -> Topology:
        with self.database.read() as tx:
            return topologies.read(tx)

    def simulation(self) -> Simulation:
        tasks = (
            SimTask(
                spec.name,
                self.seconds[spec.name],
                spec.after,
                spec.join,
                spec.group or "default",
                PRIORITIES.index(spec.priority or "normal"),
                spec.name in self.failing,
                spec.ignore_failure,
                spec.retries,
                spec.retry_delay,
                gate=spec.run is None,
            )
            for spec in self.job.tasks
        )
        return simulate(self.topology(), [SimRun("J", tuple(tasks))], NOON, END)

    def play(self, simulation: Simulation) -> None:
        """Let time jump to what ends, tries again, opens or closes; tickets go to the servers that the plan names."""
        takers = {}
        for attempt in simulation.attempts:
            takers.setdefault(simulation.tasks[attempt.task].task, []).append(attempt.server)
        changes = list(self.changes(self.topology().servers))
        self.run = self.engine.submit(self.job)
        while True:
            self.deliver(takers)
            due = {name: at for name, at in self.due().items() if at <= END}
            self.database.instant = min([*due.values(), *self.again(), *changes, END])
            changes = [change for change in changes if change > self.database.instant]
            for name in sorted(name for name, at in due.items() if at <= self.database.instant):
                self.engine.finish(name, ok=name not in self.failing)
            if self.database.instant == END:
                return
            self.engine.tick(lost_ticket_seconds=1000)

    def deliver(self, takers: dict[str, list[str]]) -> None:
        while self.engine.mail:
            ticket = self.engine.mail.popleft()
            served = self.engine.serve(takers[ticket.name].pop(0), offers=[ticket])
            assert [row.name for row in served.granted] == [ticket.name]

    def due(self) -> dict[str, datetime]:
        statement = select(TASK.name, TASK.claimed_at).where(TASK.status == "executing")
        with self.database.read() as tx:
            return {row.name: row.claimed_at + self.seconds[row.name] * SECOND for row in tx.execute(statement)}

    def again(self) -> list[datetime]:
        """When tasks try again that wait for it."""
        statement = select(TASK.ready_at).where(TASK.status == "ready", TASK.ready_at > self.database.instant)
        with self.database.read() as tx:
            return list(tx.execute(statement).scalars())

    def changes(self, found: tuple[Server, ...]):
        for server in found:
            at = next_change(server.windows, server.threads, NOON, END - NOON)
            while at is not None:
                yield at
                at = next_change(server.windows, server.threads, at, END - at)

    def course(self) -> dict[str, tuple]:
        """State, server, start and end of each task, as the database has them."""
        names = {server.id: server.name for server in self.topology().servers}
        with self.database.read() as tx:
            rows = tx.execute(select(*TASK).where(TASK.run_id == self.run, ~TASK.unnamed)).all()
        started = ("executing", "success", "error")
        return {
            row.name: (
                row.status,
                names.get(row.server_id) if row.status in started else None,
                row.claimed_at if row.status in started else None,
                row.ended_at if row.status in rules.ENDS else None,
            )
            for row in rows
        }
