"""What moves work forward: submit, settle, dispatch, advance, claim, finish, recover.

Each function takes the transaction it works in; nothing here sends a message. What a commit makes
true is returned as tickets, which the caller publishes once the transaction has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection

from batchq.core import affinity
from batchq.core.conditions import Ended, Join, readiness, resolution, verdict
from batchq.core.states import RunState, State, after_attempt
from batchq.store import moves, runs, servers
from batchq.store.database import Database
from batchq.store.moves import Ticket

if TYPE_CHECKING:
    from batchq.spec import JobSpec

T = TypeVar("T")

ROWS_PER_TRANSACTION = 2000
CONDITIONS_PER_TRANSACTION = 1000
LOST = "lost: server {name} went away during this attempt; what it did is not known"
MISSING = "lost: server {name} no longer has this attempt; what it did is not known"


# --- submit -------------------------------------------------------------------------------------------------


def submit(database: Database, job: JobSpec) -> int:
    """Store a run of the job and open it; returns its id. To advance it is the caller's next step.

    A large job is stored in chunks under a run that is still `storing`, which one guarded move opens,
    so that no other writer waits long and no part of it starts before all of it is there.
    """
    rows = runs.rows_of(job)
    if len(rows.tasks) + len(rows.conditions) <= ROWS_PER_TRANSACTION:
        return database.run(_store_at_once, database, job, rows)
    run, number = database.run(lambda tx: _open(tx, database, job))
    for tasks in _chunks(rows.tasks, ROWS_PER_TRANSACTION):
        database.run(moves.add_tasks, [number(task) for task in tasks])
    for conditions in _chunks(rows.conditions, ROWS_PER_TRANSACTION):
        database.run(moves.add_conditions, [number(condition) for condition in conditions])
    database.run(lambda tx: moves.start_run(tx, run, database.now(tx)))
    return run


def _store_at_once(tx: Connection, database: Database, job: JobSpec, rows: runs.Rows) -> int:
    run, number = _open(tx, database, job)
    moves.add_tasks(tx, [number(task) for task in rows.tasks])
    moves.add_conditions(tx, [number(condition) for condition in rows.conditions])
    moves.start_run(tx, run, database.now(tx))
    return run


def _open(tx: Connection, database: Database, job: JobSpec) -> tuple[int, runs.Number]:
    now = database.now(tx)
    servers.name_groups(tx, runs.groups_of(job))
    run = runs.open_run(tx, job, now)
    return run, runs.Number(run, servers.group_priorities(tx))


# --- settle -------------------------------------------------------------------------------------------------


def settle(tx: Connection, now: datetime, among: Collection[int] | None = None) -> bool:
    """Resolve the conditions on tasks that have ended, to a fixed point, and close runs that are through (rules 3-7).

    Works on the runs `among`, or on any. At most 1,000 conditions a transaction: True means there is more.
    """
    chosen = sorted(among) if among is not None else moves.unsettled_runs(tx, limit=CONDITIONS_PER_TRANSACTION)
    if not chosen:
        return False
    moves.lock_runs(tx, chosen)
    budget = CONDITIONS_PER_TRANSACTION
    while ended := moves.unsettled(tx, chosen, limit=budget):
        conditions = moves.open_conditions(tx, [task for task, _, _ in ended], limit=budget)
        _resolve(tx, {task: state for task, _, state in ended}, conditions, now)
        if len(conditions) == budget:
            return True
        moves.settled(tx, [task for task, _, _ in ended], Counter(run for _, run, _ in ended))
        budget -= len(conditions)
    _close(tx, chosen, now)
    return False


def _resolve(tx: Connection, ends: dict[int, State], conditions: Sequence[Any], now: datetime) -> None:
    met, impossible = [], []
    came: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    for condition, task, predecessor, outcome in conditions:
        if resolution(outcome, ends[predecessor]):
            met.append(condition)
            came[task] += 1
        else:
            impossible.append(condition)
            failed[task] += 1
    moves.resolve(tx, met, impossible)
    counted, moved = [], []
    for row in moves.counts(tx, came.keys() | failed.keys()):
        numbers = {
            "task": row.id,
            "pending": row.pending - came[row.id] - failed[row.id],
            "met": row.met + came[row.id],
            "impossible": row.impossible + failed[row.id],
        }
        state = State.WAITING
        if row.status == State.WAITING:
            state = readiness(Join(row.joined), numbers["pending"], numbers["met"], numbers["impossible"])
        if state is State.WAITING:
            counted.append(numbers)
        else:
            moved.append(numbers | _moved_to(state, now))
    moves.count(tx, counted)
    moves.count_and_move(tx, moved)


def _moved_to(state: State, now: datetime) -> dict[str, Any]:
    if state is State.READY:
        return {"status_": state.value, "unsettled": False, "ready_at": now, "ended_at": None}
    return {"status_": state.value, "unsettled": True, "ready_at": None, "ended_at": now}


def _close(tx: Connection, chosen: Collection[int], now: datetime) -> None:
    for run, was in moves.empty_runs(tx, chosen):
        failures = (
            Ended(State(row.status), row.ignore_failure, row.handled, row.aborted) for row in moves.failures(tx, run)
        )
        moves.close_run(tx, run, was, verdict(failures, canceled=was is RunState.CANCELING), now)


# --- dispatch -----------------------------------------------------------------------------------------------


def dispatch(tx: Connection, database: Database, now: datetime, ahead: int = 0) -> list[Ticket]:
    """Hand tickets for the best ready tasks to threads that are free now: ready → queued (rules 10-13, 16, 19, 28)."""
    topology = servers.topology(tx, database, servers.lock_dispatch(tx))
    busy, out = moves.occupancy(tx)
    free = affinity.free_threads(topology, busy, now, ahead)
    open_threads = sum(free.values()) - sum(out.values())
    if open_threads <= 0:
        return []
    limits = {
        group: min(room, open_threads)
        for group in servers.groups_ready(tx)
        if (room := affinity.room(group, topology, free)) > 0
    }
    candidates = moves.ready(tx, limits, now)
    chosen = set(affinity.admit([(row.id, row.group_name) for row in candidates], out, topology, free))
    return moves.queue(tx, [row for row in candidates if row.id in chosen], now)


@dataclass(frozen=True, slots=True)
class Advance:
    """What one step forward brought: tickets to publish, and whether there is more to settle."""

    tickets: list[Ticket] = field(default_factory=list)
    more: bool = False


def advance(
    tx: Connection, database: Database, now: datetime, *, ahead: int = 0, among: Collection[int] | None = None
) -> Advance:
    """Settle what has ended (in the runs `among`, or in any), then hand out what is ready."""
    more = settle(tx, now, among)
    return Advance(dispatch(tx, database, now, ahead), more)


def take_back(tx: Connection, database: Database, now: datetime, ahead: int = 0) -> int:
    """Withdraw the tickets that no free thread answers any more: a window closed, a server went (rule 20)."""
    topology = servers.topology(tx, database, servers.lock_dispatch(tx))
    out = moves.tickets_out(tx)
    if not out:
        return 0
    busy, _ = moves.occupancy(tx)
    free = affinity.free_threads(topology, busy, now, ahead)
    surplus = affinity.surplus([((row.id, row.token), row.group_name) for row in out], topology, free)
    return moves.take_back(tx, surplus)


def offer_again(tx: Connection, database: Database, now: datetime, after: float) -> list[Ticket]:
    """New tickets for those out longer than `after` seconds (then twice that, up to a minute): the broker lost them."""
    servers.lock_dispatch(tx)
    return moves.offer_again(tx, [row for row in moves.tickets_out(tx) if _overdue(row, now, after)], now)


def _overdue(row: Any, now: datetime, after: float) -> bool:
    patience = min(after * 2 ** min(row.offers, 6), max(after, 60.0))
    return bool(now - row.queued_at >= timedelta(seconds=patience))


# --- serve: claim and finish --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Life:
    """A server's name as carried by one life of its worker: the epoch fences off all others."""

    server: int
    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A ticket that has arrived at a server."""

    task: int
    token: str
    group: str


@dataclass(frozen=True, slots=True)
class Report:
    """How an attempt ended: `result` is JSON; `final` forbids a further attempt."""

    task: int
    token: str
    ok: bool
    error: str | None = None
    result: str | None = None
    log: str | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """What one commit of a server brought about."""

    granted: Sequence[Any] = ()
    parked: Sequence[Offer] = ()
    stale: int = 0
    threads: int = 0
    advance: Advance = field(default_factory=Advance)
    fenced: bool = False


def serve(
    tx: Connection,
    database: Database,
    life: Life,
    reports: Sequence[Report],
    offers: Sequence[Offer],
    *,
    active: int,
    overdue: Sequence[Offer] = (),
    ahead: int = 0,
    forward: bool = True,
    again: bool = False,
) -> Served:
    """All that one server has to say and to ask, in one transaction: finish, settle, claim, dispatch.

    `active` attempts really still run there. `overdue` offers found no thread in time and are taken back.
    `forward` is false where only the coordinator may advance; `again` goes on with what the last call left.
    A life that no longer carries its server's name gets `fenced`, and nothing happens (rule 31).
    """
    epoch, running, version = servers.standing(tx, life.server)
    if epoch != life.epoch or not running:
        return Served(fenced=True)
    now = database.now(tx)
    stale = finish(tx, life, reports, now) if reports else 0
    ended = {moves.run_of(report.task) for report in reports}
    more = settle(tx, now, None if again else ended) if forward and (ended or again) else False
    topology = servers.topology(tx, database, version)
    threads = topology.by_id[life.server].threads_now(now)
    moves.take_back(tx, [(offer.task, offer.token) for offer in overdue])
    granted, parked, refused = _claim(tx, topology, life, offers, threads - active, now) if offers else ([], [], 0)
    tickets = dispatch(tx, database, now, ahead) if forward and (reports or overdue or again) else []
    return Served(granted, parked, stale + refused, threads, Advance(tickets, more))


def _claim(
    tx: Connection, topology: affinity.Topology, life: Life, offers: Sequence[Offer], free: int, now: datetime
) -> tuple[Sequence[Any], list[Offer], int]:
    """Claim what a free thread, an open window and the bindings allow; returns granted, parked, and the stale count."""
    server = topology.by_id[life.server]
    opened = server.threads_now(now) > 0
    mine, foreign = [], []
    for offer in offers:
        (mine if opened and topology.serves(server, offer.group) else foreign).append(offer)
    moves.take_back(tx, [(offer.task, offer.token) for offer in foreign])
    taken, parked = mine[: max(free, 0)], mine[max(free, 0) :]
    granted = moves.claim(tx, [(o.task, o.token) for o in taken], life.server, life.epoch, now) if taken else []
    return granted, parked, len(taken) - len(granted)


def finish(tx: Connection, life: Life, reports: Iterable[Report], now: datetime) -> int:
    """Store how attempts ended, each guarded by token and epoch; returns how many were refused as stale (rules 30-32).

    A report repeated after a commit whose reply was lost finds its own work done, and counts as stored.
    """
    by_task = {report.task: report for report in reports}
    states = moves.lock_runs(tx, {moves.run_of(task) for task in by_task})
    rows, attempts, stale = [], [], 0
    held = moves.held(tx, by_task)
    for task, report in by_task.items():
        row = held.get(task)
        if row is None or (row.token, row.server_id, row.epoch) != (report.token, life.server, life.epoch):
            stale += 1
        elif row.status == State.EXECUTING:
            state = after_attempt(
                ok=report.ok,
                attempt=row.attempt,
                retries=row.retries,
                canceling=states[row.run_id] is RunState.CANCELING,
                final=report.final,
            )
            rows.append(_end(report, state, row, now))
            attempts.append(_attempt(report, life, row, now))
    if rows:
        moves.finish(tx, rows, attempts)
    return stale


def _end(report: Report, state: State, row: Any, now: datetime) -> dict[str, Any]:
    again = state is State.READY
    return {
        "task": report.task,
        "held": report.token,
        "status_": state.value,
        "ended": not again,
        "again_at": now + timedelta(seconds=row.retry_delay) if again else None,
        "now": now,
        "error_": report.error,
        "result_": report.result,
    }


def _attempt(report: Report, life: Life, row: Any, now: datetime) -> dict[str, Any]:
    return {
        "task_id": report.task,
        "attempt": row.attempt,
        "server": life.name,
        "epoch": life.epoch,
        "status": State.SUCCESS.value if report.ok else State.ERROR.value,
        "claimed_at": row.claimed_at,
        "ended_at": now,
        "error": report.error,
        "log": report.log,
    }


# --- recover ------------------------------------------------------------------------------------------------


def take_over(tx: Connection, server: int, name: str, life: dict[str, Any], now: datetime) -> Life:
    """Begin a new life of the server; what its former one left executing is lost (rule 31)."""
    recover(tx, server, name, now)
    epoch = servers.take_over(tx, server, life, now)
    servers.changed(tx)
    return Life(server, name, epoch)


def lose(tx: Connection, server: int, name: str, beat: int, now: datetime) -> bool:
    """Declare a server lost whose counter still stands at `beat`, and recover what it was executing (rule 31)."""
    if not servers.lose(tx, server, beat):
        return False
    recover(tx, server, name, now)
    servers.changed(tx)
    return True


def stop(tx: Connection, life: Life, now: datetime) -> bool:
    """End a life cleanly; an attempt it still had is lost."""
    if not servers.stop(tx, life.server, life.epoch):
        return False
    recover(tx, life.server, life.name, now)
    servers.changed(tx)
    return True


def recover(tx: Connection, server: int, name: str, now: datetime) -> int:
    """Finish as lost whatever the books say the server executes; returns how many attempts that were."""
    executing = moves.executing_on(tx, server)
    return _lose(tx, server, name, executing, LOST.format(name=name), now)


def recover_missing(tx: Connection, life: Life, tokens: Collection[str], now: datetime) -> int:
    """Finish as lost those attempts of the living server that it no longer has, by their tokens."""
    executing = [row for row in moves.executing_on(tx, life.server) if row.token in tokens]
    return _lose(tx, life.server, life.name, executing, MISSING.format(name=life.name), now)


def _lose(tx: Connection, server: int, name: str, executing: Sequence[Any], reason: str, now: datetime) -> int:
    for epoch in sorted({row.epoch for row in executing}):
        reports = [Report(row.id, row.token, ok=False, error=reason) for row in executing if row.epoch == epoch]
        finish(tx, Life(server, name, epoch), reports, now)
    return len(executing)


# --- cancel -------------------------------------------------------------------------------------------------


def cancel(tx: Connection, run: int, now: datetime) -> int:
    """Cancel a run: what has not started is canceled now, what executes may finish (rule 32); returns how many were canceled."""
    moves.lock_runs(tx, [run])
    canceled = moves.begin_cancel(tx, run, now)
    settle(tx, now, [run])
    return canceled


def _chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk
