"""Serve: one server's commit, in which it finishes, settles, claims and dispatches (rules 10-16, 28-32)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from batchq import crash
from batchq.core.states import RunState
from batchq.core.topology import Topology
from batchq.engine.advancing import Advance
from batchq.engine.claiming import claim, claimed_before, room
from batchq.engine.dispatching import Demand, ask, choose
from batchq.engine.finishing import Finished, finish
from batchq.engine.flush import Flush, Life, Served
from batchq.engine.settling import MOST_FOLLOWERS, Settled, close, settle, settle_ends
from batchq.store import moves
from batchq.store import topology as topologies
from batchq.store.columns import run_of
from batchq.store.moves import Follower, LockedTask, Ready, Start, Ticket
from batchq.store.sql.statement import Reply
from batchq.store.transaction import Tx


def serve(tx: Tx, life: Life, flush: Flush) -> Served:
    """Carry out one flush of a server in one transaction: finish, settle, claim, dispatch.

    A life that no longer carries its server's name is fenced off, and nothing is written (rule 31). The questions of a
    flush go out together. Where those of dispatch could be foreseen too, a remote database needs two round trips.
    """
    standing = topologies.standing(tx, life.server)
    reported = {report.task for report in flush.reports}
    moves.lock_runs(tx, sorted({run_of(task) for task in reported}))
    locked = moves.locked(tx, reported) if reported else None
    followers = moves.followers(tx, reported, MOST_FOLLOWERS) if reported and flush.may_advance else None
    foreseen = _foresee(tx, life, flush, standing)
    # After the locks: a clock read before them would judge by the time at which the wait for them began.
    now = tx.now()
    version = standing.topology(life.epoch)
    if version is None:
        return Served(fenced=True)
    topology = topologies.current(tx, version)
    # An outcome is stored even where its run cannot be settled.
    broken = bool(topology.aside.runs) and any(run_of(task) in topology.aside.runs for task in reported)
    settling = flush.may_advance and not broken
    finished = finish(tx, life, flush.reports, locked, now, settling=settling) if locked is not None else Finished()
    settled = Settled()
    if settling and finished.ends:
        settled = settle_ends(tx, now, finished.ends, followers, may_wait=foreseen is None, held=_held(locked))
    if reported:
        crash.point("finishing")
    moves.unqueue(tx, [(offer.task, offer.token) for offer in flush.overdue])
    regained = claimed_before(tx, life, flush.tokens_here) if flush.tokens_here is not None else []
    flush = flush.with_started(len(regained))
    claimed, parked, refused = claim(tx, topology, life, flush)
    flush = flush.with_started(len(claimed))
    more = settled.more
    if flush.may_advance and (flush.more_to_settle or broken):
        # Not under the dispatch lock, as it locks runs.
        more = foreseen is not None or settle(tx, now, aside=topology.aside.runs) or more
    share = Share()
    # What was put off may make tasks ready that go before others: the next commit settles, and hands out.
    if flush.may_advance and (reported or flush.overdue or flush.more_to_settle) and not settled.put_off:
        demand = _as_it_is_now(foreseen, topology, life, locked, finished, settled, now) if not broken else None
        share = _hand_out(tx, life, flush, demand, now)
    if settled.counted is not None and locked is not None and _empties(locked, settled):
        close(tx, settled.counted, now)
    threads = tx.topology.by_id[life.server].threads_now(now)
    stale = finished.stale + refused
    return Served(claimed, regained, share.handed, share.started, parked, stale, threads, Advance(share.tickets, more))


def _held(locked: Reply[LockedTask] | None) -> set[int]:
    """The held runs among those of the tasks that were locked."""
    return {row.run_id for row in locked.rows if row.held} if locked is not None else set()


def _foresee(tx: Tx, life: Life, flush: Flush, standing: topologies.Standing) -> Demand | None:
    """Ask for the input of dispatch along with the first questions, and so take its lock.

    None if this flush changes more than `_as_it_is_now` can correct, or could wait for others under the lock.
    """
    topology = tx.topology
    known = topology.by_id.get(life.server)
    changes_more = flush.offers or flush.overdue or flush.more_to_settle or flush.tokens_here is not None
    if known is None or changes_more or not (flush.reports and flush.may_advance and flush.likely):
        return None
    if any(run_of(report.task) in topology.aside.runs for report in flush.reports):
        return None
    free = min(known.most_threads, flush.pool) - flush.active
    return ask(tx, dict.fromkeys(flush.likely, free), standing=standing) if free > 0 else None


def _as_it_is_now(
    foreseen: Demand | None,
    topology: Topology,
    life: Life,
    locked: Reply[LockedTask] | None,
    finished: Finished,
    settled: Settled,
    now: datetime,
) -> Demand | None:
    """The foreseen input of dispatch with what this transaction has changed; None if that is not known in full."""
    if foreseen is None or locked is None or foreseen.topology != topology.version:
        return None
    changed = finished.ends.keys() | {row.task_id for row in settled.ready}
    if finished.again or settled.others_ready or not topology.aside.tasks.isdisjoint(changed):
        return None
    # Of a run that is held or canceled nothing may start: it is left out.
    jobs = {row.run_id: row.job for row in locked.rows if row.run_status == RunState.EXECUTING and not row.held}
    ended: dict[int, int] = {}
    for row in locked.rows:
        if row.id in finished.ends:
            ended[row.lane] = ended.get(row.lane, 0) + 1
    ready = [_ready(row, now, jobs[run]) for row in settled.ready if (run := run_of(row.task_id)) in jobs]
    return foreseen.after(life.server, ended, ready)


def _ready(row: Follower, now: datetime, job: str) -> Ready:
    """A task that became ready now."""
    return Ready(row.task_id, row.name, row.group_name, row.lane, row.attempt, row.own_class, now, job)


def _empties(locked: Reply[LockedTask], settled: Settled) -> bool:
    """Whether a run has no open task left."""
    return any(row.open_tasks == settled.tasks[row.run_id] for row in locked.rows)


@dataclass(frozen=True, slots=True)
class Share:
    """The result of dispatch: the tasks that the server starts itself, the answer that has their rows, and tickets."""

    handed: Sequence[int] = ()
    started: Reply[Start] | None = None
    tickets: list[Ticket] = field(default_factory=list)


def _hand_out(tx: Tx, life: Life, flush: Flush, demand: Demand | None, now: datetime) -> Share:
    """Dispatch what is ready, by the `demand` that was foreseen, or by one that is asked for now."""
    if demand is None:
        free = room(tx.topology, life, flush.pool, now) - flush.active
        demand = ask(tx, dict.fromkeys(flush.likely, free) if free > 0 else {}, now)
        chosen = choose(tx, demand, flush.ahead, flush.unsendable, flush.aging)
    else:
        chosen = choose(tx, demand, flush.ahead, flush.unsendable, flush.aging, now)
    free = room(tx.topology, life, flush.pool, chosen.now) - flush.active
    # Started at once: a ticket of its own would travel to the broker and straight back.
    own, others = _own_share(chosen.rows, chosen.shares.get(life.server, {}), free)
    version = tx.topology.version
    started = moves.start_own(tx, own, life.server, life.epoch, version, chosen.now) if own else None
    return Share([row.id for row in own], started, moves.hand_out(tx, others, chosen.now))


def _own_share(rows: Iterable[Ready], share: Mapping[str, int], free: int) -> tuple[list[Ready], list[Ready]]:
    """The rows that the server starts itself, at most its `share` of each group and `free` in all; and the others."""
    own: list[Ready] = []
    others: list[Ready] = []
    left = dict(share)
    for row in rows:
        if len(own) < free and left.get(row.group_name, 0) > 0:
            left[row.group_name] -= 1
            own.append(row)
        else:
            others.append(row)
    return own, others
