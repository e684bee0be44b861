"""Claim: a server starts tasks by their tickets, one a free thread, in an open window (rules 10-12, 16, 19)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from batchq import crash
from batchq.core.topology import Topology
from batchq.engine.flush import Flush, Life, Offer
from batchq.store import moves
from batchq.store import topology as topologies
from batchq.store.moves import Start
from batchq.store.transaction import Tx


def claim(tx: Tx, topology: Topology, life: Life, flush: Flush) -> tuple[Sequence[Start], Sequence[Offer], int]:
    """Claim the offers that a free thread, an open window and the bindings allow.

    Returns the rows granted, the offers parked, and the number of stale ones. The rows are locked before the clock is
    read: nothing waits between judging a claim and writing it. A topology that changed meanwhile judges it anew.
    """
    if not flush.offers:
        return [], [], 0
    locked = moves.lock_tickets(tx, [offer.task for offer in flush.offers])
    now = tx.now()
    # By the database: a message that names another group was not sent by us.
    groups = {row.id: row.group_name for row in locked.rows}
    mine, foreign = _sorted_out(flush.offers, groups, topology, life, now)
    moves.unqueue(tx, [(offer.task, offer.token) for offer in foreign])
    stale = len(flush.offers) - len(mine) - len(foreign)
    free = max(room(topology, life, flush.pool, now) - flush.active, 0)
    taken, parked = mine[:free], mine[free:]
    if not taken:
        return [], parked, stale
    tokens = [(offer.task, offer.token) for offer in taken]
    granted = moves.grant(tx, tokens, life.server, life.epoch, topology.version, now).rows
    crash.point("claiming")
    if len(granted) < len(taken) and topologies.newest_version(tx) != topology.version:
        return claim(tx, topologies.current(tx), life, replace(flush, offers=mine))
    return granted, parked, len(taken) - len(granted) + stale


def _sorted_out(
    offers: Sequence[Offer], groups: dict[int, str], topology: Topology, life: Life, now: datetime
) -> tuple[list[Offer], list[Offer]]:
    """Split the offers into those that may start now and those that go back; set-aside tasks are in neither."""
    server = topology.by_id[life.server]
    opened = server.threads_now(now) > 0
    mine: list[Offer] = []
    foreign: list[Offer] = []
    for offer in offers:
        if offer.task in topology.aside.tasks:
            continue
        fits = opened and topology.takes(server, groups.get(offer.task, offer.group))
        (mine if fits else foreign).append(offer)
    return mine, foreign


def claimed_before(tx: Tx, life: Life, tokens_here: Collection[str]) -> Sequence[Start]:
    """The attempts that the database has under this life, and of which the life does not know."""
    lost = [row for row in moves.executing_on(tx, life.server) if row.epoch == life.epoch]
    tickets = [(row.id, row.token) for row in lost if row.token not in tokens_here]
    return moves.claimed(tx, tickets, life.server, life.epoch).rows if tickets else []


def room(topology: Topology, life: Life, pool: int, now: datetime) -> int:
    """The most attempts that the server may run at once: its window's threads, but at most its `pool` (rule 16)."""
    return min(topology.by_id[life.server].threads_now(now), pool)
