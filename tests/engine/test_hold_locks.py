"""A hold beside others that work at the same instant, on PostgreSQL: nothing starts that it did not see (rule 33b)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from batchq import actions, engine
from batchq.errors import Conflict
from batchq.spec import Job
from batchq.store import moves
from batchq.store.job import withhold
from batchq.store.moves import holding
from batchq.store.transaction import Tx
from play import Clocked, Play, check_counters
from support.locks import elsewhere, meanwhile, other_of

SECONDS = 30.0


@pytest.fixture
def batch(postgresql: Clocked) -> Play:
    postgresql.patience = 0.2
    batch = Play(postgresql, fast_path=False)
    batch.server("AOS1", 2)
    return batch


def stored(batch: Play, *names: str) -> int:
    """A run of these tasks, none of which is handed out."""
    job = Job("JOB")
    for name in names or ("A",):
        job.task(name, "demo.work")
    return engine.submit(batch.database, job.spec())


ACTS: dict[str, Callable[..., Any]] = {"hold": actions.hold_run, "cancel": actions.cancel_run}


def begun(operator: Tx, word: str, run: int) -> None:
    """Do it as far as its commit."""
    if word == "hold":
        engine.hold(operator, run, operator.now(), "olav")
    else:
        engine.cancel(operator, run, operator.now())
    operator.execute(text("SELECT 1"))


@pytest.mark.parametrize("word", ACTS)
def test_a_ticket_that_dispatch_hands_out_meanwhile_is_taken_back(batch, postgresql, word):
    """Dispatch has looked, and not committed: the action waits for its lock, and then finds the ticket."""
    run = stored(batch)
    with elsewhere(postgresql) as dispatch:
        (ticket,) = engine.advance(dispatch).tickets
        dispatch.execute(text("SELECT 1"))
        with meanwhile(postgresql, partial(ACTS[word], other_of(postgresql), run)) as ended:
            assert not ended
            dispatch.commit()
    assert not isinstance(ended[0], Exception)
    assert not batch.serve("AOS1", offers=[ticket]).granted
    assert batch.states(run) == {"A": "ready" if word == "hold" else "canceled"}
    check_counters(postgresql)


@pytest.mark.parametrize("word", ACTS)
def test_dispatch_that_waited_for_the_action_starts_nothing(batch, postgresql, word):
    """The action has the dispatch lock: whoever gets it next must look at what the action committed."""
    run = stored(batch)
    with elsewhere(postgresql) as operator:
        begun(operator, word, run)
        other = other_of(postgresql)
        with meanwhile(postgresql, lambda: other.run(engine.advance)) as ended:
            operator.commit()
    assert ended[0].tickets == []


def test_a_piece_waits_for_no_task_and_makes_no_server_wait_for_the_run(batch, postgresql):
    run = stored(batch, "A", "B", "C")
    with postgresql.write() as tx:
        moves.lock_run(tx, run)
        moves.hold_run(tx, run, "olav", None, tx.now())
    second = batch.task(run, "B").id
    with elsewhere(postgresql) as other, elsewhere(postgresql) as piece:
        moves.lock_now(other, [second], skip=False)
        assert engine.move_on(piece, run, piece.now()) is not None
        moves.lock_runs(other, [run])  # as a server that settles it
        other.execute(text("SET LOCAL lock_timeout = '1s'"))
        other.execute(text("SELECT 1"))
        piece.commit()
        other.rollback()
    assert [batch.task(run, name).aside for name in "ABC"] == [True, False, True]
    assert postgresql.run(lambda tx: engine.go_on(tx, tx.now()))
    assert not postgresql.run(lambda tx: engine.go_on(tx, tx.now()))
    assert [batch.task(run, name).aside for name in "ABC"] == [True, True, True]
    check_counters(postgresql)


def test_a_release_waits_for_the_piece_of_a_hold_and_leaves_no_task_aside(batch, postgresql):
    run = stored(batch, "A", "B", "C")
    with postgresql.write() as tx:
        moves.lock_run(tx, run)
        moves.hold_run(tx, run, "olav", None, tx.now())
    with elsewhere(postgresql) as piece:
        engine.move_on(piece, run, piece.now())
        piece.execute(text("SELECT 1"))
        with meanwhile(postgresql, partial(actions.release_run, other_of(postgresql), run)) as ended:
            piece.commit()
    assert not isinstance(ended[0], Exception)
    assert not any(batch.task(run, name).aside for name in "ABC")
    check_counters(postgresql)


@pytest.mark.parametrize(
    ("first", "second"), [("hold", "hold"), ("hold", "cancel"), ("cancel", "hold"), ("cancel", "cancel")]
)
def test_of_two_actions_at_the_same_instant_the_second_waits_and_sees_the_first(batch, postgresql, first, second):
    run = stored(batch)
    with elsewhere(postgresql) as operator:
        begun(operator, first, run)
        with meanwhile(postgresql, partial(ACTS[second], other_of(postgresql), run)) as ended:
            operator.commit()
    refused = isinstance(ended[0], Conflict)
    assert refused == ((first, second) != ("hold", "cancel"))
    check_counters(postgresql)


def test_a_submit_that_waited_for_a_withhold_is_refused(batch, postgresql):
    stored(batch)
    job = Job("JOB")
    job.task("A", "demo.work")
    with elsewhere(postgresql) as operator:
        operator.execute(text("SELECT id FROM batchq_job FOR UPDATE"))
        withhold(operator, 1, True, "olav", "broken", operator.now())
        with meanwhile(postgresql, lambda: engine.submit(other_of(postgresql), job.spec())) as ended:
            operator.commit()
    assert isinstance(ended[0], Conflict)
    assert "withheld (by olav: 'broken')" in str(ended[0])


def test_servers_settle_and_retry_beside_pieces_without_a_deadlock(batch, postgresql, monkeypatch):
    """Three at once: a hold and a release in turn, ticks in pieces of one row, and a server that reports."""
    monkeypatch.setattr(holding, "ROWS_BESIDE_OTHERS", 1)
    job = Job("MANY")
    for number in range(30):
        first = job.task(f"A{number}", "demo.work")
        job.task(f"B{number}", "demo.work", after=first)
    run = engine.submit(postgresql, job.spec())
    failed: list[Exception] = []
    over = threading.Event()

    def again(act: Callable[[], object]) -> threading.Thread:
        def turn() -> None:
            while not over.is_set():
                try:
                    act()
                except Conflict:
                    continue
                except Exception as error:
                    failed.append(error)
                    return

        thread = threading.Thread(target=turn)
        thread.start()
        return thread

    operator, coordinator = other_of(postgresql), other_of(postgresql)

    def hold_and_release() -> None:
        actions.hold_run(operator, run)
        actions.release_run(operator, run)

    threads = [again(hold_and_release), again(lambda: coordinator.run(lambda tx: engine.go_on(tx, tx.now())))]
    batch.fast_path = True
    try:
        for _ in range(40):
            batch.forward()
            batch.deliver()
            for name in batch.executing():
                batch.finish(name)
    finally:
        over.set()
        for thread in threads:
            thread.join(SECONDS)
    assert not failed
    with postgresql.read() as tx:
        held = tx.execute(text(f"SELECT held FROM batchq_run WHERE id = {run}")).scalar_one()
    if held:
        actions.release_run(postgresql, run)
    while batch.verdict(run) == "executing":
        batch.tick()
        batch.deliver()
        for name in batch.executing():
            batch.finish(name)
    assert batch.verdict(run) == "success"
    check_counters(postgresql)


@pytest.mark.parametrize("word", ACTS)
def test_a_ticket_that_goes_back_at_the_same_instant_is_held_or_canceled(batch, postgresql, word):
    """When the action looks, the ticket is still out; when it locks tickets, the task is ready again."""
    run = stored(batch)
    (ticket,) = postgresql.run(engine.advance).tickets
    with elsewhere(postgresql) as server:
        assert moves.unqueue(server, [(ticket.task, ticket.token)]) == 1
        with meanwhile(postgresql, partial(ACTS[word], other_of(postgresql), run)) as ended:
            server.commit()
    assert not isinstance(ended[0], Exception)
    assert batch.states(run) == {"A": "ready" if word == "hold" else "canceled"}
    assert batch.verdict(run) == ("executing" if word == "hold" else "canceled")
    check_counters(postgresql)
