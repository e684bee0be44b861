"""What moves work forward: submit, settle, dispatch, advance, claim, finish, recover.

Each function takes the transaction it works in; nothing here sends a message. What a commit makes
true is returned as tickets, which the caller publishes once the transaction has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection

from batchq import crash
from batchq.core import admission
from batchq.core.conditions import Ended, Join, readiness, resolution, verdict
from batchq.core.states import Outcome, RunState, State, after_attempt
from batchq.core.topology import Topology
from batchq.store import moves, trouble
from batchq.store import run as runs
from batchq.store import server as servers
from batchq.store.database import Database, why
from batchq.store.moves import Ticket
from batchq.store.statement import Reply
from batchq.store.trouble import Key, What

if TYPE_CHECKING:
    from batchq.spec import JobSpec

T = TypeVar("T")

ROWS_PER_TRANSACTION = 5000
CONDITIONS_PER_TRANSACTION = 1000
MOST_FOLLOWERS = CONDITIONS_PER_TRANSACTION + len(Outcome)
ROUNDS_PER_TRANSACTION = 50
LOST = "lost: server {name} went away during this attempt; what it did is not known"
STOPPED = "lost: its server was stopped during this attempt; what it did is not known"
TERMINATED = "terminated by an operator ({signal})"
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
    number, _ = database.run(runs.open_run, database, job)
    stored = (
        (runs.add_tasks, map(number.task, rows.tasks)),
        (runs.add_conditions, number.conditions(rows.conditions)),
    )
    for add, all_rows in stored:
        for chunk in _chunks(all_rows, ROWS_PER_TRANSACTION):
            if not database.run(_add, number.run, add, chunk):
                return number.run
            crash.point("chunk-stored")
    database.run(lambda tx: moves.start_run(tx, number.run, database.now(tx)))
    return number.run


def _add(tx: Connection, run: int, add: Callable[[Connection, Sequence[Any]], None], rows: Sequence[Any]) -> bool:
    """Add rows to a run, unless it was canceled while it was stored."""
    storing = moves.is_storing(tx, run)
    if storing:
        add(tx, rows)
    return storing


def _store_at_once(tx: Connection, database: Database, job: JobSpec, rows: runs.Rows) -> int:
    number, now = runs.open_run(tx, database, job)
    runs.add_tasks(tx, list(map(number.task, rows.tasks)))
    runs.add_conditions(tx, list(number.conditions(rows.conditions)))
    moves.start_run(tx, number.run, now)
    return number.run


# --- settle -------------------------------------------------------------------------------------------------


def settle(tx: Connection, now: datetime, asked: Reply | None = None, aside: Collection[int] = ()) -> bool:
    """Resolve the conditions on tasks that have ended, to a fixed point, and close runs that are through (rules 3-7).

    They are those that earlier transactions left, but in the runs set `aside`; somebody may have `asked` for these runs
    already (`unsettled`). A transaction does a bounded piece of work: True means that there is more.
    """
    return settle_runs(tx, [row.run_id for row in (asked or unsettled(tx, aside)).rows], now)


def settle_runs(tx: Connection, runs: Collection[int], now: datetime) -> bool:
    """The same for these runs only."""
    if not runs:
        return False
    moves.lock_runs(tx, sorted(runs))
    ends = moves.unsettled(tx, runs, limit=CONDITIONS_PER_TRANSACTION)
    more, counted = _settle(tx, now, ends, flagged=True)
    _close(tx, counted, now)
    return more or len(ends) == CONDITIONS_PER_TRANSACTION


def unsettled(tx: Connection, aside: Collection[int] = ()) -> Reply:
    """The runs in which earlier transactions left something to settle; asked for together with what follows."""
    return moves.unsettled_runs(tx, CONDITIONS_PER_TRANSACTION, aside)


def _settle(
    tx: Connection, now: datetime, ends: Mapping[int, State], asked: Reply | None = None, *, flagged: bool = False
) -> tuple[bool, Reply | None]:
    """Settle these ends, which may be `flagged` as unsettled; returns whether more is left, and what `_close` reads.

    Their followers may have been `asked` for already, together with those of other tasks.
    """
    settled, left, reached = _to_fixed_point(tx, now, ends, asked)
    moves.settled(tx, [task for task in settled if flagged and task in ends])
    moves.leave(tx, left, reached)
    counted = moves.count_off(tx, Counter(map(moves.run_of, settled))) if settled else None
    return bool(left), counted


def _to_fixed_point(
    tx: Connection, now: datetime, ends: Mapping[int, State], asked: Reply | None
) -> tuple[dict[int, State], dict[int, State], dict[int, int]]:
    """Settled tasks, those whose turn comes in the next transaction, and up to which task one of these got already."""
    settled: dict[int, State] = {}
    budget, rounds = CONDITIONS_PER_TRANSACTION, ROUNDS_PER_TRANSACTION
    ending = dict(ends)
    known = None if asked is None or len(asked.rows) == MOST_FOLLOWERS else asked.rows
    while ending and rounds:
        most = max(budget, 1)
        if known is not None:
            found, known = [row for row in known if row.predecessor_id in ending], None
        else:
            found = moves.followers(tx, ending, most + len(Outcome)).rows
        conditions, next_, weight = _whole(found, most)
        fell = _resolve(tx, ending, conditions, now) if conditions else {}
        if next_ is not None:
            predecessor, task = next_
            done = {end: state for end, state in ending.items() if end < predecessor}
            left = {end: state for end, state in ending.items() if end >= predecessor}
            return settled | done, left | fell, {predecessor: task - 1}
        settled |= ending
        ending = fell
        budget -= weight
        rounds -= 1
    return settled, ending, {}


def _whole(conditions: Sequence[Any], most: int) -> tuple[Sequence[Any], tuple[int, int] | None, int]:
    """So many of the conditions, each counted once for every task that shares it, or the few more that are of the same
    two tasks; the two tasks that come next; and how many those are.
    """
    cut = weight = 0
    while cut < len(conditions) and (weight < most or conditions[cut][:2] == conditions[cut - 1][:2]):
        weight += 1 + conditions[cut].sharing
        cut += 1
    return conditions[:cut], conditions[cut][:2] if cut < len(conditions) else None, weight


def _resolve(tx: Connection, ends: Mapping[int, State], conditions: Sequence[Any], now: datetime) -> dict[int, State]:
    """Resolve these conditions and move the tasks that waited for them, with all that share them; returns those that
    didn't run.
    """
    came: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    waiting: dict[int, Any] = {}
    met = {(outcome.value, end): resolution(outcome, ends[end]) for end in ends for outcome in Outcome}
    for predecessor, task, outcome, *stands in conditions:
        (came if met[outcome, predecessor] else failed)[task] += 1
        waiting[task] = stands
    counted, moved = [], []
    fell: dict[int, State] = {}
    shared: dict[State, list[int]] = {}
    for task, (status, joined, pending, already, impossible, sharing) in sorted(waiting.items()):
        row = {
            "task": task,
            "pending": pending - came[task] - failed[task],
            "met": already + came[task],
            "impossible": impossible + failed[task],
        }
        state = State.WAITING
        if status == State.WAITING:
            state = readiness(Join(joined), row["pending"], row["met"], row["impossible"])
        if state is State.WAITING:
            counted.append(row)
            continue
        ready = state is State.READY
        moved.append(row | {"state": state.value, "ready": now if ready else None, "ended": None if ready else now})
        if not ready:
            fell[task] = state
        if sharing:
            shared.setdefault(state, []).append(task)
    moves.count(tx, counted)
    moves.count_and_move(tx, moved)
    with_them = {state: moves.move_sharing(tx, tasks, state, now) for state, tasks in shared.items()}
    if State.DIDNT_RUN in with_them:
        fell |= dict.fromkeys((row.id for row in with_them[State.DIDNT_RUN].rows), State.DIDNT_RUN)
    return fell


def _close(tx: Connection, counted: Reply | None, now: datetime) -> None:
    """Give the runs their verdicts that were counted down to nothing (rule 7)."""
    emptied = moves.emptied(counted) if counted is not None else {}
    if not emptied:
        return
    failures: dict[int, list[Ended]] = {run: [] for run in emptied}
    for row in moves.failures(tx, emptied):
        failures[row.run_id].append(Ended(State(row.status), row.ignore_failure, row.handled, row.aborted))
    closing = []
    for run, was in emptied.items():
        verdict_ = verdict(failures[run], canceled=was is RunState.CANCELING)
        closing.append({"run": run, "was": was.value, "verdict": verdict_.value})
    moves.close_runs(tx, closing, now)


# --- dispatch -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """Ready tasks that may be handed out at this instant, best first, and how many of each group each server's own
    threads answer."""

    now: datetime
    rows: Sequence[Any] = ()
    shares: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


def dispatch(tx: Connection, database: Database, ahead: int = 0, unsendable: Collection[str] = ()) -> list[Ticket]:
    """Hand tickets for the best ready tasks to threads that are free now: ready → queued (rules 10-13, 16, 19, 28).

    Groups whose tickets are `unsendable` get none.
    """
    aside = servers.aside(tx, database).tasks
    chosen = _choose(tx, database, servers.demand(tx, aside), {}, ahead, unsendable)
    return [moves.ticket(row) for row in moves.hand_out(tx, chosen.rows, chosen.now)]


def _choose(
    tx: Connection,
    database: Database,
    demand: servers.DispatchInput,
    looked: Mapping[str, moves.Looked],
    ahead: int,
    unsendable: Collection[str],
) -> Chosen:
    """Choose what is handed out, under the dispatch lock; what is `looked` at already need not be asked for."""
    now = database.now(tx)
    topology = servers.topology(tx, database, demand.version)
    busy, out = demand.occupancy
    free = admission.free_threads(topology, busy, now, ahead)
    ready = [group for group in demand.ready if group not in unsendable] if unsendable else demand.ready
    limits = admission.candidates_wanted(ready, out, topology, free)
    if not limits:
        return Chosen(now)
    candidates = moves.ready(tx, limits, looked, now, topology.aside.tasks)
    admitted = admission.admit([(row, row.group_name) for row in candidates], out, topology, free)
    return Chosen(now, admitted.chosen, admitted.shares)


@dataclass(frozen=True, slots=True)
class Advance:
    """What one step forward brought: tickets to publish, and whether there is more to settle."""

    tickets: list[Ticket] = field(default_factory=list)
    more: bool = False


def advance(tx: Connection, database: Database, *, ahead: int = 0, unsendable: Collection[str] = ()) -> Advance:
    """Settle what has ended, then hand out what is ready, but for groups whose tickets are `unsendable`."""
    asked = unsettled(tx, servers.aside(tx, database).runs)
    more = settle(tx, database.now(tx), asked)
    return Advance(dispatch(tx, database, ahead, unsendable), more)


def take_back(tx: Connection, database: Database, now: datetime, ahead: int = 0, *, skip: bool = False) -> int:
    """Withdraw the tickets that no free thread answers any more: a window closed, a server went (rule 20).

    A tick may `skip` those that are being claimed; an action has called `moves.lock_out` first, and misses none.
    """
    topology = servers.topology(tx, database, servers.lock_dispatch(tx))
    out = moves.tickets_out(tx, topology.aside.tasks)
    if not out:
        return 0
    busy, _ = moves.occupancy(tx, topology.aside.tasks)
    free = admission.free_threads(topology, busy, now, ahead)
    surplus = admission.surplus([((row.id, row.token), row.group_name) for row in out], topology, free)
    held = moves.lock_now(tx, {task for task, _ in surplus}, skip=skip)
    return moves.take_back(tx, [(task, token) for task, token in surplus if task in held])


def offer_again(tx: Connection, database: Database, now: datetime, after: float) -> list[Ticket]:
    """New tickets for those out longer than `after` seconds (then twice that, up to a minute): the broker lost them."""
    aside = servers.topology(tx, database, servers.lock_dispatch(tx)).aside.tasks
    overdue = [row for row in moves.tickets_out(tx, aside) if is_overdue(row, now, after)]
    held = moves.lock_now(tx, {row.id for row in overdue}, skip=True)
    return moves.offer_again(tx, [row for row in overdue if row.id in held], now)


def is_overdue(row: Any, now: datetime, after: float) -> bool:
    """Whether a ticket is out for longer than its patience, which doubles with each offer.

    Raises ValueError for a token that no statement finds again: it would be out for ever.
    """
    if not (row.token is None or (isinstance(row.token, str) and row.token.isascii())):
        raise ValueError("its token is no text")
    patience = timedelta(seconds=min(after * 2 ** min(row.offers, 6), max(after, 60.0)))
    # Either way: a clock that was set back would else hide a lost ticket until it is past that time again.
    return bool(abs(now - row.queued_at) >= patience)


def follow_clock(
    tx: Connection, now: datetime, aside: Collection[int] = (), alone: Collection[int] | None = None
) -> int:
    """Let no ready task wait for an instant that is far only because the clock went back; returns how many did."""
    rows = []
    for row in moves.not_before(tx, now, aside, alone):
        due = now + timedelta(seconds=row.retry_delay if row.attempt else 0)
        if row.ready_at > due:
            rows.append({"task": row.id, "held": row.ready_at, "due": due})
    return moves.hasten(tx, rows)


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
    """What one commit of a server brought about.

    `claimed` are the rows of offers that it may start. `own` are those it may start without one: what an earlier
    transaction of it had `regained`, and what this one `handed` to its own server, if it is among the `started`, which
    are read with the commit. `parked` are offers that wait on for a thread, `stale` counts what was refused.
    """

    claimed: Sequence[Any] = ()
    regained: Sequence[Any] = ()
    handed: Sequence[Any] = ()
    started: Reply | None = None
    parked: Sequence[Offer] = ()
    stale: int = 0
    threads: int = 0
    advance: Advance = field(default_factory=Advance)
    fenced: bool = False

    @property
    def own(self) -> Sequence[Any]:
        ours = {row.id for row in self.started.rows} if self.started is not None else ()
        return [*self.regained, *(row for row in self.handed if row.id in ours)]

    @property
    def granted(self) -> Sequence[Any]:
        return [*self.claimed, *self.own]


def serve(
    tx: Connection,
    database: Database,
    life: Life,
    reports: Sequence[Report],
    offers: Sequence[Offer],
    *,
    active: int,
    pool: int,
    overdue: Sequence[Offer] = (),
    ahead: int = 0,
    forward: bool = True,
    again: bool = False,
    known: Collection[str] | None = None,
    unsendable: Collection[str] = (),
) -> Served:
    """All that one server has to say and to ask, in one transaction: finish, settle, claim, dispatch.

    `active` attempts really still run there, and its pool has room for `pool` (rule 16). `overdue` offers found
    no thread in time and are taken back.
    `forward` is false where only the coordinator may advance; `again` goes on with what the last call left. After a
    commit whose reply was lost, `known` are the tokens that are there: what it had claimed besides is granted anew.
    Of groups whose tickets are `unsendable` nothing is handed out.
    A life that no longer carries its server's name gets `fenced`, and nothing happens (rule 31).
    """
    standing = servers.standing(tx, life.server)
    moves.lock_runs(tx, sorted({moves.run_of(report.task) for report in reports}))
    reported = {report.task for report in reports}
    held = moves.held(tx, reported) if reports else None
    followers = moves.followers(tx, reported, MOST_FOLLOWERS) if reports and forward else None
    # Whoever waits for a lock must not judge by a clock read before: what follows comes after what it waited for.
    now = database.now(tx)
    version = standing.topology(life.epoch)
    if version is None:
        return Served(fenced=True)
    topology = servers.topology(tx, database, version)
    # What cannot be settled must not keep the outcome itself from being stored.
    broken = bool(topology.aside.runs) and any(moves.run_of(task) in topology.aside.runs for task in reported)
    settling = forward and not broken
    stale, ends = finish(tx, life, reports, held, now, settling=settling) if held is not None else (0, {})
    more, counted = _settle(tx, now, ends, followers) if settling and ends else (False, None)
    if reports:
        crash.point("finishing")
    moves.take_back(tx, [(offer.task, offer.token) for offer in overdue])
    regained = _claimed_before(tx, life, known) if known is not None else []
    active += len(regained)
    claimed, parked, refused = _claim(tx, database, topology, life, offers, active, pool)
    active += len(claimed)
    if forward and (again or broken):
        more = settle(tx, now, aside=topology.aside.runs) or more
    handed: Sequence[Any] = ()
    started: Reply | None = None
    tickets: list[Ticket] = []
    if forward and (reports or overdue or again):
        handed, started, tickets = _hand_out(
            tx, database, life, held, now, active=active, pool=pool, ahead=ahead, unsendable=unsendable
        )
    _close(tx, counted, now)
    threads = database.topology.by_id[life.server].threads_now(now)
    step = Advance(tickets, more)
    return Served(claimed, regained, handed, started, parked, stale + refused, threads, step)


def _hand_out(
    tx: Connection,
    database: Database,
    life: Life,
    ended: Reply | None,
    now: datetime,
    *,
    active: int,
    pool: int,
    ahead: int,
    unsendable: Collection[str],
) -> tuple[Sequence[Any], Reply | None, list[Ticket]]:
    """Hand out what is ready; returns what the server starts itself, and the tickets for the others.

    Where a task has `ended` and a thread is free, one more of its group is likely to start there.
    """
    free = _room(database.topology, life, pool, now) - active
    aside = database.topology.aside.tasks
    demand = servers.demand(tx, aside)
    likely = {row.group_name: free for row in ended.rows} if ended is not None and free > 0 else {}
    chosen = _choose(tx, database, demand, moves.look(tx, likely, now, aside), ahead, unsendable)
    free = _room(database.topology, life, pool, chosen.now) - active
    share = chosen.shares.get(life.server, {})
    own, others = _own_share(moves.hand_out(tx, chosen.rows, chosen.now), share, free)
    # What its own threads answer it claims at once: the message would only come back to it.
    tokens = [(row.id, row.token) for row in own]
    version = database.topology.version
    claimed = moves.claim_held(tx, tokens, life.server, life.epoch, version, chosen.now) if own else None
    return [row._replace(attempt=row.attempt + 1) for row in own], claimed, [moves.ticket(row) for row in others]


def _claimed_before(tx: Connection, life: Life, known: Collection[str]) -> Sequence[Any]:
    """What this life has claimed by the books, and does not know of."""
    rows = [row for row in moves.executing_on(tx, life.server) if row.epoch == life.epoch and row.token not in known]
    return moves.claimed(tx, [(row.id, row.token) for row in rows], life.server, life.epoch).rows if rows else []


def _room(topology: Topology, life: Life, pool: int, now: datetime) -> int:
    """How many attempts may run there at once: what the window allows, and the pool has room for (rule 16)."""
    return min(topology.by_id[life.server].threads_now(now), pool)


def _own_share(rows: Iterable[Any], share: Mapping[str, int], free: int) -> tuple[list[Any], list[Any]]:
    """The rows that the server starts itself: so many of each group, and no more than are free; and the others."""
    own: list[Any] = []
    others: list[Any] = []
    left = Counter(share)
    for row in rows:
        if len(own) < free and left[row.group_name] > 0:
            left[row.group_name] -= 1
            own.append(row)
        else:
            others.append(row)
    return own, others


def _claim(
    tx: Connection,
    database: Database,
    topology: Topology,
    life: Life,
    offers: Sequence[Offer],
    active: int,
    pool: int,
) -> tuple[Sequence[Any], list[Offer], int]:
    """Claim what a free thread, an open window and the bindings allow; returns granted, parked, and the stale count.

    The claim holds only at its own instant and under the topology it was judged by: nothing waits between them and
    the write, as the rows are locked before; if the topology has changed meanwhile, it is judged anew.
    """
    if not offers:
        return [], [], 0
    held = moves.lock_tickets(tx, [offer.task for offer in offers])
    now = database.now(tx)
    # By the books: a ticket that says otherwise has not come from us.
    groups = {row.id: row.group_name for row in held.rows}
    server = topology.by_id[life.server]
    opened = server.threads_now(now) > 0
    mine: list[Offer] = []
    foreign: list[Offer] = []
    for offer in offers:
        if offer.task in topology.aside.tasks:
            continue  # stale, until it goes through again under a new ticket
        fits = opened and topology.takes(server, groups.get(offer.task, offer.group))
        (mine if fits else foreign).append(offer)
    moves.take_back(tx, [(offer.task, offer.token) for offer in foreign])
    broken = len(offers) - len(mine) - len(foreign)
    free = max(_room(topology, life, pool, now) - active, 0)
    taken, parked = mine[:free], mine[free:]
    if not taken:
        return [], parked, broken
    tokens = [(offer.task, offer.token) for offer in taken]
    granted = moves.claim(tx, tokens, life.server, life.epoch, topology.version, now).rows
    crash.point("claiming")
    if len(granted) < len(taken) and servers.newest(tx) != topology.version:
        return _claim(tx, database, servers.topology(tx, database), life, mine, active, pool)
    return granted, parked, len(taken) - len(granted) + broken


def finish(
    tx: Connection, life: Life, reports: Iterable[Report], asked: Reply, now: datetime, *, settling: bool = False
) -> tuple[int, dict[int, State]]:
    """Store how attempts ended, each guarded by token and epoch (rules 30-32); the caller locked their runs, and
    `asked` how the tasks stand (`moves.held`).

    Returns how many were refused as stale, and the tasks that have ended. They are marked as unsettled,
    unless the caller is `settling` them in this transaction. A report repeated after a commit whose reply
    was lost finds its own work done, and counts as stored.
    """
    rows, attempts, stale = [], [], 0
    ends: dict[int, State] = {}
    held = {row.id: row for row in asked.rows}
    for report in reports:
        row = held.get(report.task)
        if row is None or (row.token, row.server_id, row.epoch) != (report.token, life.server, life.epoch):
            stale += 1
        elif row.status == State.EXECUTING:
            state = after_attempt(
                ok=report.ok,
                attempt=row.attempt,
                retries=row.retries,
                canceling=row.run_status == RunState.CANCELING,
                final=report.final,
            )
            held[report.task] = row._replace(status=state)
            if state is not State.READY:
                ends[report.task] = state
            rows.append(_end(report, state, row, now, flag=report.task in ends and not settling))
            attempts.append(_attempt(report, life, row, now))
    if rows:
        moves.finish(tx, rows, attempts, now)
    return stale, ends


def _end(report: Report, state: State, row: Any, now: datetime, *, flag: bool) -> dict[str, Any]:
    again = state is State.READY
    return {
        "task": report.task,
        "held": report.token,
        "state": state.value,
        "flag": flag,
        "again": now + timedelta(seconds=row.retry_delay) if again else None,
        "reason": report.error,
        "value": report.result,
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


def retire(tx: Connection, database: Database, life: Life, now: datetime) -> None:
    """Let a stopping server start nothing more; what it executes goes on, its tickets go back."""
    servers.set_pool(tx, life.server, life.epoch, 0)
    moves.lock_out(tx)
    servers.changed(tx)
    take_back(tx, database, now)


def stop(tx: Connection, life: Life, now: datetime) -> bool:
    """End a life cleanly; an attempt it still had is lost."""
    if not servers.stop(tx, life.server, life.epoch):
        return False
    recover(tx, life.server, life.name, now, STOPPED)
    servers.changed(tx)
    return True


def recover(tx: Connection, server: int, name: str, now: datetime, reason: str = LOST) -> int:
    """Finish as lost whatever the books say the server executes; returns how many attempts that were."""
    executing = moves.executing_on(tx, server)
    return lose_attempts(tx, server, name, executing, reason.format(name=name), now)


def recover_missing(tx: Connection, life: Life, tokens: Collection[str], now: datetime) -> int:
    """Finish as lost those attempts of the living server that it no longer has, by their tokens."""
    executing = [row for row in moves.executing_on(tx, life.server) if row.token in tokens]
    return lose_attempts(tx, life.server, life.name, executing, MISSING.format(name=life.name), now)


def lose_attempts(tx: Connection, server: int, name: str, executing: Sequence[Any], reason: str, now: datetime) -> int:
    """Finish these attempts as lost, for this reason; set aside each one for which that cannot be stored."""
    if not executing:
        return 0
    rows = {row.id: row for row in executing}

    def end(tasks: Iterable[int]) -> None:
        _lose(tx, server, name, [rows[task] for task in tasks], reason, now)

    if trouble.tried(tx, lambda: end(rows), keep=True) is None:
        return len(rows)
    broken: dict[Key, str] = {}
    for task in sorted(rows):
        if error := trouble.tried(tx, partial(end, [task]), keep=True):
            broken[What.LOST, task] = why(error)
    trouble.note(tx, broken, name, now)
    return len(rows) - len(broken)


def lose_again(tx: Connection, task: int, now: datetime) -> None:
    """Finish as lost the attempt of a task that was set aside when its server went; nothing if it has ended."""
    row = moves.left_executing(tx, task)
    if row is not None:
        _lose(tx, row.server_id, row.server, [row], LOST.format(name=row.server), now)


def _lose(tx: Connection, server: int, name: str, executing: Sequence[Any], reason: str, now: datetime) -> None:
    moves.lock_runs(tx, sorted({moves.run_of(row.id) for row in executing}))
    for epoch in dict.fromkeys(row.epoch for row in executing):
        reports = [Report(row.id, row.token, ok=False, error=reason) for row in executing if row.epoch == epoch]
        held = moves.held(tx, [report.task for report in reports])
        finish(tx, Life(server, name, epoch), reports, held, now)
        crash.point("recovering")


# --- cancel -------------------------------------------------------------------------------------------------


def cancel(tx: Connection, run: int, now: datetime) -> int:
    """Cancel a run: what has not started is canceled now, what executes may finish (rule 32); returns how many were."""
    moves.lock_runs(tx, [run])
    if moves.give_up(tx, run, now):
        return 0
    moves.lock_out(tx)
    canceled = moves.begin_cancel(tx, run, now)
    _close(tx, moves.count_off(tx, {run: canceled}), now)
    return canceled


def _chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk
