"""Faults in what follows a clock that is set: each was one of the engine's once, and found by the simulation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from batchq import clock, engine
from batchq.core.priority import in_order
from batchq.engine import dispatching, ticketing
from batchq.store.moves import TicketOut
from drills.sim.mutants import replaced


def leaves_what_is_ready_in_the_future() -> AbstractContextManager[None]:
    """After the clock was set back, what was ready waits until it is as late again."""
    return replaced((engine, "follow_clock", lambda tx, now, aside=(): 0))


def counts_the_patience_of_tickets_forwards() -> AbstractContextManager[None]:
    """After the clock was set back, a lost ticket is not replaced until it is as late again."""

    def forwards(row: TicketOut, now: datetime, after: float) -> bool:
        return now >= row.queued_at and is_overdue(row, now, after)

    is_overdue = ticketing.is_overdue
    return replaced((ticketing, "is_overdue", forwards))


def ages_by_the_clock_of_the_process() -> AbstractContextManager[None]:
    """What waits rises by the clock of the machine that dispatches, not by the database's."""

    def by_its_own_clock(tasks: Any, now: datetime, aging: float) -> Any:
        return in_order(tasks, clock.now(), aging)

    return replaced((dispatching, "in_order", by_its_own_clock))


MUTANTS: list[Callable[[], AbstractContextManager[None]]] = [
    leaves_what_is_ready_in_the_future,
    counts_the_patience_of_tickets_forwards,
    ages_by_the_clock_of_the_process,
]
