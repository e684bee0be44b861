"""Faults in what people steer by: holds, retries, limits and gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from sqlalchemy import select

from batchq import engine
from batchq.core.conditions import Join
from batchq.core.rerun import Asked, Graph, Numbers, Standing, state_by
from batchq.core.states import RunState, State
from batchq.engine import dispatching, holding, resetting, settling
from batchq.store import moves
from batchq.store.columns import RUN, TASK
from drills.sim.mutants import replaced


def holds_beside_a_dispatch() -> AbstractContextManager[None]:
    """A hold without the lock of dispatch: it does not see the tickets that are handed out meanwhile."""

    def old_tickets(tx: Any, run: int) -> list[int]:
        meanwhile = select(TASK.id).where(TASK.queued_at > tx.now() - timedelta(milliseconds=20))
        return sorted(set(moves.tickets_of(tx, run)) - set(tx.execute(meanwhile).scalars()))

    unlocked = {"tickets_of": old_tickets, "lock_out": lambda tx: None}
    return replaced(
        (holding, "moves", SimpleNamespace(**vars(moves) | unlocked)),
        (holding, "topologies", SimpleNamespace(lock_dispatch=lambda tx: None)),
    )


def retries_only_who_keeps_the_conditions() -> AbstractContextManager[None]:
    """A retry that forgets the tasks that share the conditions of another one."""

    def alone(tasks: Mapping[int, Standing], conditions: Mapping[int, Sequence[Asked]]) -> Graph:
        return replace(Graph.of(tasks, conditions), sharing={task: [task] for task in tasks})

    return replaced((resetting, "Graph", SimpleNamespace(of=alone)))


def counts_units_from_the_claim() -> AbstractContextManager[None]:
    """A ticket takes no unit of its limits; only the attempt does."""
    in_use = dispatching._in_use
    return replaced((dispatching, "_in_use", lambda lanes, tickets, executing: in_use(lanes, executing)))


def lets_gates_wait_for_a_tick() -> AbstractContextManager[None]:
    """A gate whose conditions are decided is left to the next tick, and with it all that follows."""

    def later(state: State, *, gate: bool) -> State:
        return State.WAITING if gate else state

    def settle(tx: Any, now: datetime, *rest: Any, **more: Any) -> bool:
        for run in list(tx.execute(select(RUN.id).where(RUN.status == RunState.EXECUTING.value)).scalars()):
            for row in moves.waiting(tx, run):
                numbers = Numbers(row.pending, row.met, row.impossible)
                state = state_by(Join(row.joined), numbers, gate=row.gate)
                if row.gate and state is not State.WAITING:
                    moves.end_at_once(tx, [row.id], state, now)
        return settled(tx, now, *rest, **more)

    settled = engine.settle
    return replaced((settling, "moved", later), (engine, "settle", settle))


MUTANTS: list[Callable[[], AbstractContextManager[None]]] = [
    holds_beside_a_dispatch,
    retries_only_who_keeps_the_conditions,
    counts_units_from_the_claim,
    lets_gates_wait_for_a_tick,
]
