"""Serve: one server's commit, in which it finishes, settles, claims and dispatches (rules 10-16, 30-32)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from batchq import crash
from batchq.engine.advancing import Advance
from batchq.engine.claiming import claim, claimed_before, room
from batchq.engine.dispatching import choose
from batchq.engine.finishing import finish
from batchq.engine.flush import Flush, Life, Served
from batchq.engine.settling import MOST_FOLLOWERS, close, settle, settle_ends
from batchq.store import moves
from batchq.store import topology as topologies
from batchq.store.columns import run_of
from batchq.store.moves import LockedTask, Ready, Start, Ticket
from batchq.store.sql.statement import Id, Reply
from batchq.store.transaction import Tx


def serve(tx: Tx, life: Life, flush: Flush) -> Served:
    """Carry out one flush of a server in one transaction: finish, settle, claim, dispatch.

    A life that no longer carries its server's name is fenced off, and nothing is written (rule 31).
    """
    standing = topologies.standing(tx, life.server)
    reported = {report.task for report in flush.reports}
    moves.lock_runs(tx, sorted({run_of(task) for task in reported}))
    locked = moves.locked(tx, reported) if reported else None
    followers = moves.followers(tx, reported, MOST_FOLLOWERS) if reported and flush.may_advance else None
    # After the locks: a clock read before them would judge by the time at which the wait for them began.
    now = tx.now()
    version = standing.topology(life.epoch)
    if version is None:
        return Served(fenced=True)
    topology = topologies.current(tx, version)
    # An outcome is stored even where its run cannot be settled.
    broken = bool(topology.aside.runs) and any(run_of(task) in topology.aside.runs for task in reported)
    settling = flush.may_advance and not broken
    stale, ends = finish(tx, life, flush.reports, locked, now, settling=settling) if locked is not None else (0, {})
    more, counted = settle_ends(tx, now, ends, followers) if settling and ends else (False, None)
    if reported:
        crash.point("finishing")
    moves.unqueue(tx, [(offer.task, offer.token) for offer in flush.overdue])
    regained = claimed_before(tx, life, flush.tokens_here) if flush.tokens_here is not None else []
    flush = flush.with_started(len(regained))
    claimed, parked, refused = claim(tx, topology, life, flush)
    flush = flush.with_started(len(claimed))
    if flush.may_advance and (flush.more_to_settle or broken):
        more = settle(tx, now, aside=topology.aside.runs) or more
    handed: Sequence[Start] = ()
    started: Reply[Id] | None = None
    tickets: list[Ticket] = []
    if flush.may_advance and (reported or flush.overdue or flush.more_to_settle):
        handed, started, tickets = _hand_out(tx, life, flush, locked, now)
    close(tx, counted, now)
    threads = tx.topology.by_id[life.server].threads_now(now)
    return Served(claimed, regained, handed, started, parked, stale + refused, threads, Advance(tickets, more))


def _hand_out(
    tx: Tx, life: Life, flush: Flush, ended: Reply[LockedTask] | None, now: datetime
) -> tuple[Sequence[Start], Reply[Id] | None, list[Ticket]]:
    """Dispatch what is ready; returns the rows that the server starts itself, the proof of their claim, and tickets.

    A group in which a task has `ended` is peeked at in advance: its next task is likely to start on the same thread.
    """
    free = room(tx.topology, life, flush.pool, now) - flush.active
    aside = tx.topology.aside.tasks
    demand = topologies.dispatch_input(tx, aside)
    likely = {row.group_name: free for row in ended.rows} if ended is not None and free > 0 else {}
    chosen = choose(tx, demand, moves.peek(tx, likely, now, aside), flush.ahead, flush.unsendable)
    free = room(tx.topology, life, flush.pool, chosen.now) - flush.active
    share = chosen.shares.get(life.server, {})
    ours, others = _own_share(chosen.rows, share, free)
    # Started at once: a ticket of its own would travel to the broker and straight back.
    own = [row.start(moves.new_token()) for row in ours]
    version = tx.topology.version
    started = moves.start_own(tx, own, life.server, life.epoch, version, chosen.now) if own else None
    tickets = [moves.ticket(row) for row in moves.hand_out(tx, others, chosen.now)]
    return [row._replace(attempt=row.attempt + 1) for row in own], started, tickets


def _own_share(rows: Iterable[Ready], share: Mapping[str, int], free: int) -> tuple[list[Ready], list[Ready]]:
    """The rows that the server starts itself, at most its `share` of each group and `free` in all; and the others."""
    own: list[Ready] = []
    others: list[Ready] = []
    left = Counter(share)
    for row in rows:
        if len(own) < free and left[row.group_name] > 0:
            left[row.group_name] -= 1
            own.append(row)
        else:
            others.append(row)
    return own, others
