"""Tickets that are out: taken back when no thread answers them, offered again when the broker lost them (rule 20)."""

from __future__ import annotations

from datetime import datetime, timedelta

from batchq.core import admission
from batchq.core.limits import Units
from batchq.store import moves
from batchq.store import topology as topologies
from batchq.store.lane import lanes_of
from batchq.store.moves import Ticket, TicketOut
from batchq.store.transaction import Tx


def take_back(tx: Tx, now: datetime, ahead: int = 0, *, skip: bool = False) -> int:
    """queued → ready for tickets that no free thread answers any more: a window closed, a server went (rule 20).

    A tick may `skip` tickets that are being claimed. An action calls `moves.lock_out` first, and misses none.
    """
    topology = topologies.current(tx, topologies.lock_dispatch(tx))
    out = moves.tickets_out(tx, topology.aside.tasks)
    if not out:
        return 0
    busy, executing, _ = moves.occupancy(tx, topology.aside.tasks)
    free = admission.free_threads(topology, busy, now, ahead)
    lanes = lanes_of(tx, {*executing, *(row.lane for row in out)})
    units = Units(topology, {lanes[lane]: number for lane, number in executing.items()})
    tickets = [((row.id, row.token), lanes[row.lane]) for row in out]
    surplus = admission.surplus(tickets, topology, free, units)
    locked = moves.lock_now(tx, {task for task, _ in surplus}, skip=skip)
    return moves.unqueue(tx, [(task, token) for task, token in surplus if task in locked])


def offer_again(tx: Tx, now: datetime, after: float) -> list[Ticket]:
    """New tickets for those out longer than `after` seconds (then twice that, up to a minute): the broker lost them."""
    aside = topologies.current(tx, topologies.lock_dispatch(tx)).aside.tasks
    overdue = [row for row in moves.tickets_out(tx, aside) if is_overdue(row, now, after)]
    locked = moves.lock_now(tx, {row.id for row in overdue}, skip=True)
    return moves.requeue(tx, [row for row in overdue if row.id in locked], now)


def is_overdue(row: TicketOut, now: datetime, after: float) -> bool:
    """Whether a ticket is out for longer than its patience, which doubles with each offer.

    Raises ValueError for a token that no statement would find again: its ticket would be out for ever.
    """
    if not (row.token is None or (isinstance(row.token, str) and row.token.isascii())):
        raise ValueError("its token is no text")
    patience = timedelta(seconds=min(after * 2 ** min(row.offers, 6), max(after, 60.0)))
    # In both directions: after the clock was set back, a lost ticket would wait until the old time comes round again.
    return bool(abs(now - row.queued_at) >= patience)
