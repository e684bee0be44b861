"""One bad row never holds up the others: work that always fails is found, set aside, told in `check`, and tried again.

A transaction for many may fail by the content of one row: somebody broke it, or the database refuses a text. Such a row
is found by rehearsal: each kind of work is done for fewer and fewer rows at once, and undone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import select

from batchq import engine
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason, State
from batchq.engine import Report
from batchq.store import moves, topology, trouble
from batchq.store.columns import RUN, SERVER, TASK
from batchq.store.database import Database
from batchq.store.failures import of_content, why
from batchq.store.tables import Liveness, Server
from batchq.store.transaction import Tx
from batchq.store.trouble import Key, What

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

# A run is given up once nobody went on storing it for this long.
STORING = timedelta(hours=1)
# The fewest ready tasks of a group to rehearse: as many may be handed out at once.
MOST = 500
TIMES = 3
Act = Callable[[Sequence[int]], object]


def run(database: Database, act: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Do `act(tx, …)` as `Database.run` does; sets a row aside first, and repeats, if its content makes `act` fail."""
    for _ in range(TIMES):
        try:
            return database.run(act, *args, **kwargs)
        except Exception as error:
            if not of_content(error) or not set_aside(database):
                raise
    return database.run(act, *args, **kwargs)


def set_aside(database: Database) -> bool:
    """Find the rows that make work fail by their content, and set them aside; False if there is none."""
    return database.run(_set_aside)


def _set_aside(tx: Tx) -> bool:
    before = topology.current(tx).aside
    now = tx.now()
    found: dict[Key, str] = {}
    for what, numbers, act in _stages(tx, now):
        apart = before.runs if what is What.RUN else before.tasks
        fresh = [number for number in numbers if number not in apart and (what, number) not in found]
        found |= {(what, number): reason for number, reason in trouble.culprits(tx, fresh, act).items()}
    for (what, number), reason in found.items():
        logger.warning("%s %d always fails, and is set aside: %s", what.value, number, reason)
    trouble.note(tx, found, tx.process, now)
    return bool(found or before.tasks or before.runs)


def _stages(tx: Tx, now: datetime) -> Iterator[tuple[What, Sequence[int], Act]]:
    """List each kind of work that is done for many rows at once: the rows, and how to do it for some of them."""
    unsettled = engine.unsettled(tx, topology.aside(tx).runs)
    yield What.RUN, [row.run_id for row in unsettled.rows], partial(_settle, tx, now)
    yield What.RUN, moves.numbers_storing(tx, now - STORING), partial(_give_up, tx, now)
    yield What.RUN, moves.moving_runs(tx), partial(_move_on, tx, now)
    queued, version = moves.numbers_out(tx, State.QUEUED), tx.topology.version
    yield What.TASK, moves.numbers_out(tx, State.EXECUTING, State.QUEUED), partial(_count, tx)
    yield What.TASK, queued, partial(_take_back, tx)
    yield What.TASK, queued, partial(_offer_and_claim, tx, version, now)
    yield What.TASK, moves.numbers_not_before(tx, now), partial(_follow_clock, tx, now)
    room = max(MOST, sum(server.threads for server in tx.topology.servers))
    for lane in topology.dispatch_input(tx).ready:
        yield What.TASK, moves.numbers_ready(tx, lane, room), partial(_hand_out, tx, version, now)


def _settle(tx: Tx, now: datetime, runs: Sequence[int]) -> None:
    engine.settle_runs(tx, runs, now)


def _give_up(tx: Tx, now: datetime, runs: Sequence[int]) -> None:
    for number in runs:
        moves.give_up(tx, number, now)


def _move_on(tx: Tx, now: datetime, runs: Sequence[int]) -> None:
    for number in runs:
        engine.move_on(tx, number, now)


def _count(tx: Tx, tasks: Sequence[int]) -> None:
    moves.counted(moves.occupancy_later(tx, alone=tasks))


def _take_back(tx: Tx, tasks: Sequence[int]) -> None:
    moves.unqueue(tx, [(row.id, row.token) for row in moves.tickets_out(tx, alone=tasks)])


def _offer_and_claim(tx: Tx, version: int, now: datetime, tasks: Sequence[int]) -> None:
    rows = moves.tickets_out(tx, alone=tasks)
    for row in rows:
        engine.is_overdue(row, now, 1.0)
    _claim(tx, version, now, [(ticket.task, ticket.token) for ticket in moves.requeue(tx, rows, now)])


def _follow_clock(tx: Tx, now: datetime, tasks: Sequence[int]) -> None:
    engine.follow_clock(tx, now, alone=tasks)


def _hand_out(tx: Tx, version: int, now: datetime, tasks: Sequence[int]) -> None:
    rows = moves.ready_alone(tx, tasks, now)
    _claim(tx, version, now, [(ticket.task, ticket.token) for ticket in moves.hand_out(tx, rows, now)])


def _claim(tx: Tx, version: int, now: datetime, tickets: Sequence[tuple[int, str]]) -> None:
    """Rehearse a claim for a server that does not exist, so that nothing can start."""
    if tickets:
        assert len(moves.grant(tx, tickets, 0, 0, version, now).rows) == len(tickets)


# --- again --------------------------------------------------------------------------------------------------


def try_again(database: Database) -> None:
    """Try the rows set aside once more: a row goes on if it goes through, and else waits twice as long."""
    with database.read() as tx:
        due = trouble.due(tx, tx.now())
    for row in due:
        database.run(_try_again, What(row.what), row.number)


def _try_again(tx: Tx, what: What, number: int) -> None:
    now = tx.now()
    if not trouble.lock_due(tx, what, number, now):
        return
    if what in STANDS:
        # Who set it aside tries again itself. Nobody else would forget the row once there is nothing to try.
        if not STANDS[what](tx, number):
            trouble.forget(tx, what, number)
        return
    error = trouble.tried(tx, lambda: _do_alone(tx, what, number, now), keep=what is What.LOST)
    if error is None:
        trouble.forget(tx, what, number)
    else:
        trouble.note(tx, {(what, number): why(error)}, tx.process, now)


def _do_alone(tx: Tx, what: What, number: int, now: datetime) -> None:
    if what is What.LOST:
        engine.lose_again(tx, number, now)
        return
    topology.current(tx)
    for kind, _, act in _stages(tx, now):
        if kind is what:
            act([number])
    if what is What.RUN:
        _settle(tx, now, [number])


def _is_kept(tx: Tx, task: int) -> bool:
    """Whether the server that executes the task is still the one that started it."""
    same = select(TASK.id).join(Server, SERVER.id == TASK.server_id).where(TASK.id == task)
    same = same.where(TASK.status == State.EXECUTING.value, TASK.epoch == SERVER.epoch)
    return tx.execute(same.where(SERVER.liveness == Liveness.RUNNING.value)).scalar() is not None


def _runs(tx: Tx, server: int) -> bool:
    found = select(SERVER.id).where(SERVER.id == server, SERVER.liveness == Liveness.RUNNING.value)
    return tx.execute(found).scalar() is not None


def _is_retried(tx: Tx, run: int) -> bool:
    return tx.execute(select(RUN.id).where(RUN.id == run, RUN.retry.is_not(None))).scalar() is not None


# Work that `_try_again` leaves to another process or step, and whether there still is such work for a number.
STANDS: dict[What, Callable[[Tx, int], bool]] = {What.REPORT: _is_kept, What.SERVER: _runs, What.RETRY: _is_retried}


def alone(database: Database, what: What, number: int, act: Callable[[], object]) -> None:
    """Do `act` for one server, or for the retry of one run; sets that aside if its own rows make the act fail."""
    with database.read() as tx:
        if trouble.pauses(tx, what, number, tx.now()):
            return
    try:
        act()
    except Exception as error:
        if not of_content(error):
            raise
        reason = why(error)
        database.run(lambda tx: trouble.note(tx, {(what, number): reason}, tx.process, tx.now()))
        return
    database.run(lambda tx: trouble.forget(tx, what, number))


# --- outcomes -----------------------------------------------------------------------------------------------


def bare(report: Report, reason: str) -> Report:
    """The outcome without its words: no result is stored (rule 9a), and its error or its log says why."""
    said, end = f"what it said was left out, as the database refuses it: {reason}", report.end
    if isinstance(end, Success):
        return replace(report, end=Success(), log=said)
    return replace(report, end=replace(end, error=said), log=None)


def refused(report: Report, reason: str) -> Report:
    """The error that an outcome becomes if the database refuses it even without its words."""
    said, end = f"its outcome was refused by the database: {reason}", report.end
    kind = end.reason if isinstance(end, Failure) else Reason.ERROR
    return replace(report, end=Failure(kind, said, final=True), log=None)
