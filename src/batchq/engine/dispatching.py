"""Dispatch: the best ready tasks get tickets for free threads (rules 10-13, 16, 19, 28)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from batchq.core import admission
from batchq.store import moves
from batchq.store import topology as topologies
from batchq.store.moves import Peeked, Ready, Ticket
from batchq.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class Chosen:
    """Ready tasks to hand out at this instant, best first; and how many of each group each server's threads answer."""

    now: datetime
    rows: Sequence[Ready] = ()
    shares: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


def dispatch(tx: Tx, ahead: int = 0, unsendable: Collection[str] = ()) -> list[Ticket]:
    """ready → queued for the best tasks that free threads answer; returns their tickets (rules 10-13, 16, 19, 28).

    A group whose tickets are `unsendable` gets none.
    """
    aside = topologies.aside(tx).tasks
    chosen = choose(tx, topologies.dispatch_input(tx, aside), {}, ahead, unsendable)
    return [moves.ticket(row) for row in moves.hand_out(tx, chosen.rows, chosen.now)]


def choose(
    tx: Tx,
    demand: topologies.DispatchInput,
    peeked: Mapping[str, Peeked],
    ahead: int,
    unsendable: Collection[str],
) -> Chosen:
    """Choose the tasks to hand out, under the dispatch lock; a group `peeked` at far enough is not asked for again."""
    now = tx.now()
    topology = topologies.current(tx, demand.version)
    busy, out = demand.occupancy
    free = admission.free_threads(topology, busy, now, ahead)
    ready = [group for group in demand.ready if group not in unsendable] if unsendable else demand.ready
    wanted = admission.candidates_wanted(ready, out, topology, free)
    if not wanted:
        return Chosen(now)
    candidates = moves.ready(tx, wanted, peeked, now, topology.aside.tasks)
    admitted = admission.admit([(row, row.group_name) for row in candidates], out, topology, free)
    return Chosen(now, admitted.chosen, admitted.shares)


def follow_clock(tx: Tx, now: datetime, aside: Collection[int] = (), alone: Collection[int] | None = None) -> int:
    """Bring forward the ready tasks that wait only because the clock was set back; returns their number."""
    rows: list[dict[str, object]] = []
    for row in moves.not_before(tx, now, aside, alone):
        due = now + timedelta(seconds=row.retry_delay if row.attempt else 0)
        if row.ready_at > due:
            rows.append({"task": row.id, "standing": row.ready_at, "due": due})
    return moves.hasten(tx, rows)
