"""Locks are taken in one order, the dispatch lock last: who holds it waits for no run and no task (PostgreSQL)."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from batchq import Job, actions, engine
from batchq.config import Settings
from batchq.coordinator import Coordinator
from batchq.core.ends import End, Failure, Success
from batchq.core.states import Reason
from batchq.engine import Flush, Report
from batchq.errors import Conflict
from batchq.store import moves, trouble
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.transaction import Tx
from batchq.store.trouble import What
from play import Clocked, Play
from support.locks import elsewhere, meanwhile, other_of, wait_for_locks
from support.nowhere import Nowhere

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
FAILED = Failure(Reason.ERROR, "told to fail")


@pytest.fixture
def batch(postgresql: Clocked) -> Play:
    """A server of two threads, on a database that is waited for two seconds in all."""
    postgresql.instant = NOON
    postgresql.patience = 0.2
    batch = Play(postgresql)
    batch.server("AOS1", 2)
    return batch


@pytest.fixture
def coordinator(postgresql: Clocked) -> Coordinator:
    return Coordinator(postgresql, Settings(), Nowhere())


def one_task(batch: Play, name: str = "ONE") -> tuple[int, Any]:
    """A run of one task, whose ticket is out."""
    job = Job(name)
    job.task("A", "demo.work")
    run = batch.submit(job)
    return run, batch.mail.pop()


def be_claiming(tx: Tx, *tickets: Any) -> None:
    """Be a server that is about to claim these."""
    moves.lock_tickets(tx, [ticket.task for ticket in tickets])
    tx.execute(text("SELECT 1"))


# --- the tick -----------------------------------------------------------------------------------------------


def test_a_tick_leaves_a_ticket_alone_that_is_being_claimed_and_takes_it_back_later(batch, coordinator, postgresql):
    run, ticket = one_task(batch)
    with postgresql.write() as tx:
        servers.set_server(tx, batch.workers["AOS1"].life.server, enabled=False)
        topologies.changed(tx)
    with elsewhere(postgresql) as claim:
        be_claiming(claim, ticket)
        coordinator.tick(1.0)
        topologies.lock_dispatch(claim)
        assert batch.states(run) == {"A": "queued"}
    coordinator.tick(2.0)
    assert batch.states(run) == {"A": "ready"}


def test_a_tick_sends_no_ticket_again_that_is_being_claimed(batch, coordinator, postgresql):
    run, ticket = one_task(batch)
    postgresql.later(seconds=60)
    with elsewhere(postgresql) as claim:
        be_claiming(claim, ticket)
        coordinator.tick(1.0)
        topologies.lock_dispatch(claim)
        assert batch.task(run, "A").token == ticket.token
    coordinator.tick(2.0)
    assert batch.task(run, "A").token != ticket.token


def test_a_tick_that_waits_for_a_run_does_not_hold_dispatch_up(batch, coordinator, postgresql):
    run, ticket = one_task(batch)
    batch.serve("AOS1", offers=[ticket])
    batch.fast_path = False
    batch.finish("A")
    with elsewhere(postgresql) as server:
        moves.lock_runs(server, [run])
        server.execute(text("SELECT 1"))
        with meanwhile(postgresql, lambda: coordinator.tick(1.0)) as ended:
            topologies.lock_dispatch(server)
            server.rollback()
    assert ended == [None]
    assert batch.verdict(run) == "success"


# --- an operator's action -----------------------------------------------------------------------------------


@pytest.mark.parametrize("retires", [False, True], ids=["an operator", "a server that stops"])
def test_who_takes_tickets_back_waits_for_a_claim_before_dispatch_not_under_it(batch, postgresql, retires):
    run, ticket = one_task(batch)
    life = batch.workers["AOS1"].life

    def act() -> Any:
        if retires:
            return postgresql.run(lambda tx: engine.retire(tx, life, NOON))
        return actions.disable(postgresql, "AOS1")

    with elsewhere(postgresql) as claim:
        be_claiming(claim, ticket)
        with meanwhile(postgresql, act) as ended:
            topologies.lock_dispatch(claim)
            assert not ended
            claim.rollback()
    assert not isinstance(ended[0], Exception)
    assert batch.states(run) == {"A": "ready"}


def test_a_ticket_that_left_while_dispatch_was_waited_for_is_waited_for_too_but_not_under_it(batch, postgresql):
    """It is being claimed when the operator gets the dispatch lock: the action begins again, and misses no start."""
    job = Job("LATE")
    job.task("A", "demo.work")
    run = engine.submit(postgresql, job.spec())
    life = batch.workers["AOS1"].life
    with elsewhere(postgresql) as server, elsewhere(postgresql) as next_one, elsewhere(postgresql) as claim:
        (ticket,) = engine.advance(server).tickets
        with meanwhile(postgresql, lambda: topologies.lock_dispatch(next_one)) as locked:
            operator = meanwhile(postgresql, lambda: actions.disable(other_of(postgresql), "AOS1"), waiting=2)
            ended = operator.__enter__()
            server.commit()
        ((version),) = locked
        be_claiming(claim, ticket)
        next_one.rollback()
        wait_for_locks(postgresql, 1)
        assert topologies.lock_dispatch(claim) == version
        granted = moves.grant(claim, [(ticket.task, ticket.token)], life.server, life.epoch, version, NOON).rows
        assert (len(granted), ended) == (1, [])
        claim.commit()
        operator.__exit__(None, None, None)
    assert ended == [["server AOS1: enabled yes → no"]]
    assert batch.states(run) == {"A": "executing"}


def test_a_change_of_priority_waits_for_a_run_that_is_settled_and_holds_none_of_its_tasks(batch, postgresql):
    """Who settles the run moves its tasks on under the dispatch lock, for which the change waits in the end."""
    job = Job("JOB")
    job.task("A", "demo.work")
    job.task("B", "demo.work", after=["A"])
    run = batch.submit(job)
    waiting = batch.task(run, "B").id
    with elsewhere(postgresql) as server:
        moves.lock_runs(server, [run])
        topologies.lock_dispatch(server)
        change = partial(actions.set_group, other_of(postgresql), "default", priority="high")
        with meanwhile(postgresql, change) as ended:
            server.execute(text("SET LOCAL lock_timeout = '1s'"))
            server.execute(text(f"UPDATE batchq_task SET pending = pending WHERE id = {waiting}"))
            server.commit()
    assert ended == [["group default: priority normal → high"]]


# --- a server's commit, which asks for the dispatch lock along with its first questions ---------------------


def any_of_two(batch: Play) -> tuple[int, Any, Any]:
    """A run in which X is queued, as one of the two tasks that it follows has ended; the other one, and X's ticket."""
    batch.server("AOS2", 1, groups=["BG1"])
    job = Job("JOB")
    job.task("A", "demo.work")
    job.task("B", "demo.work")
    job.task("X", "demo.work", after=["A", "B"], join="any", group="BG1")
    run = batch.submit(job)
    batch.deliver()
    batch.finish("A")
    (ticket,) = batch.mail
    return run, batch.at("B")[1], ticket


@pytest.mark.parametrize(
    "held",
    [
        be_claiming,
        lambda tx, ticket: moves.lock_out(tx),
        lambda tx, ticket: moves.unqueue(tx, [(ticket.task, ticket.token)]),
    ],
    ids=["claimed", "locked for an operator", "taken back"],
)
def test_a_commit_under_the_dispatch_lock_waits_for_no_follower_that_others_hold(batch, postgresql, held):
    run, row, ticket = any_of_two(batch)
    server, life = other_of(postgresql), batch.workers["AOS1"].life
    server.patience = 0.2
    with server.write() as tx:
        topologies.current(tx)
    flush = engine.Flush(reports=[engine.Report(row.id, row.token, Success())], active=0, pool=2, likely={row.pile})
    with elsewhere(postgresql) as other:
        held(other, ticket)
        served = server.run(engine.serve, life, flush)
        topologies.lock_dispatch(other)
        other.rollback()
    assert served.advance.more
    assert batch.task(run, "X").pending == 1
    server.run(engine.serve, life, engine.Flush(active=0, pool=2, more_to_settle=True))
    assert (batch.task(run, "X").pending, batch.states(run)["B"]) == (0, "success")
    batch.deliver()
    batch.finish("X")
    assert batch.verdict(run) == "success"


def test_a_commit_that_reports_of_a_run_set_aside_locks_other_runs_before_dispatch(batch, postgresql):
    life, server = batch.workers["AOS1"].life, other_of(postgresql)
    one = Job("ONE")
    one.task("A", "demo.work")
    two = Job("TWO")
    two.task("C", "demo.work")
    first, second = batch.submit(one), batch.submit(two)
    batch.deliver()
    a, c = (batch.at(name)[1] for name in "AC")
    left = engine.Flush(
        reports=[engine.Report(c.id, c.token, Success())], active=1, pool=2, likely={c.pile}, may_advance=False
    )
    postgresql.run(engine.serve, life, left)
    postgresql.run(lambda tx: trouble.note(tx, {(What.RUN, first): "broken"}, "here", tx.now()))
    with server.write() as tx:
        topologies.current(tx)
    flush = engine.Flush(reports=[engine.Report(a.id, a.token, Success())], active=0, pool=2, likely={a.pile})
    with elsewhere(postgresql) as other:
        moves.lock_runs(other, [second])
        other.execute(text("SELECT 1"))
        with meanwhile(postgresql, lambda: server.run(engine.serve, life, flush)) as ended:
            topologies.lock_dispatch(other)
            other.rollback()
    assert not isinstance(ended[0], Exception)
    assert batch.verdict(second) == "success"


# --- aborts -------------------------------------------------------------------------------------------------


def being_aborted(batch: Play, end: End = FAILED) -> tuple[int, Report]:
    """A run whose task executes, and the report of its end."""
    batch.live("AOS1", pool_kind="prefork")
    run, ticket = one_task(batch)
    batch.serve("AOS1", offers=[ticket])
    _, row = batch.at("A", run)
    return run, Report(row.id, row.token, end)


@pytest.mark.parametrize(("end", "status"), [(Success(), "success"), (FAILED, "error")])
def test_an_abort_waits_for_an_outcome_that_is_being_stored_which_then_counts_as_rule_32_says(
    batch, postgresql, end, status
):
    run, report = being_aborted(batch, end)
    life = batch.workers["AOS1"].life
    with elsewhere(postgresql) as finish:
        engine.serve(finish, life, Flush(reports=[report], active=1, pool=2))
        finish.execute(text("SELECT 1"))
        with meanwhile(postgresql, lambda: actions.abort_task(other_of(postgresql), run, "A")) as ended:
            finish.commit()
    (refusal,) = ended
    assert isinstance(refusal, Conflict), refusal
    assert batch.states(run) == {"A": status}
    assert batch.task(run, "A").abort is False


def test_an_outcome_waits_for_an_abort_that_is_being_stored_and_is_one_then(batch, postgresql):
    run, report = being_aborted(batch)
    with elsewhere(postgresql) as abort:
        assert engine.abort(abort, report.task, report.token)
        with meanwhile(postgresql, lambda: batch.serve("AOS1", [report])):
            abort.commit()
    assert batch.states(run) == {"A": "canceled"}
