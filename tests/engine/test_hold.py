"""Hold and release (rules 33b and 33c): once a hold has returned nothing of the run starts, until it is released."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
from sqlalchemy import select, update

from batchq import actions
from batchq.core.states import State
from batchq.errors import Conflict
from batchq.spec import Job
from batchq.store import moves
from batchq.store import run as runs
from batchq.store.columns import RUN, TASK
from batchq.store.moves.becoming import TaskMove
from batchq.store.rows import rows_of
from batchq.store.tables import Run
from batchq.testing.clocked import in_memory
from play import Play, check_counters

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def job(name: str = "JOB") -> Job:
    """A and B start at once, and C follows A."""
    job = Job(name)
    first = job.task("A", "demo.work", retries=1)
    job.task("B", "demo.work")
    job.task("C", "demo.work", after=first.finished)
    return job


def asides(batch: Play, run: int) -> str:
    """The names of the run's tasks that are aside."""
    with batch.database.read() as tx:
        return "".join(tx.execute(select(TASK.name).where(TASK.run_id == run, TASK.aside).order_by(TASK.id)).scalars())


def standing(batch: Play, run: int) -> dict[str, str]:
    """How the tasks stand; the last check is that nothing is out of count."""
    check_counters(batch.database)
    return batch.states(run)


# --- hold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_what_is_ready_or_queued_is_put_aside_and_what_executes_finishes(batch, threads):
    batch.server("AOS1", threads)
    run = batch.submit(job())
    batch.deliver()
    actions.hold_run(batch.database, run)
    executing = "AB"[:threads]
    assert asides(batch, run) == "AB"[threads:]
    for name in executing:
        batch.finish(name)
    batch.deliver()
    ended = dict.fromkeys(executing, "success")
    waits = "ready" if threads else "waiting"
    assert standing(batch, run) == {"A": "ready", "B": "ready", "C": waits} | ended
    assert batch.verdict(run) == "executing"


def test_a_ticket_that_is_out_starts_nothing_after_a_hold_has_returned(batch):
    batch.server("AOS1", 2)
    run = batch.submit(job())
    tickets = list(batch.mail)
    actions.hold_run(batch.database, run)
    served = batch.serve("AOS1", offers=tickets)
    assert (list(served.granted), served.stale) == ([], 2)
    assert standing(batch, run) == {"A": "ready", "B": "ready", "C": "waiting"}


def test_a_retry_of_an_attempt_waits_in_a_held_run(batch):
    batch.server("AOS1", 1)
    run = batch.submit(job())
    batch.deliver()
    actions.hold_run(batch.database, run)
    batch.finish("A", ok=False)
    batch.deliver()
    assert asides(batch, run) == "AB"
    assert standing(batch, run) == {"A": "ready", "B": "ready", "C": "waiting"}


def test_attempts_of_a_lost_server_wait_in_a_held_run(batch):
    batch.server("AOS1", 1)
    run = batch.submit(job())
    batch.deliver()
    actions.hold_run(batch.database, run)
    batch.lose("AOS1")
    batch.server("AOS2", 1)
    batch.forward()
    batch.deliver()
    assert asides(batch, run) == "AB"
    assert standing(batch, run) == {"A": "ready", "B": "ready", "C": "waiting"}


@pytest.mark.parametrize("fast_path", [False, True])
def test_tasks_that_share_conditions_become_ready_aside(database, fast_path):
    batch = Play(database, fast_path=fast_path)
    batch.server("AOS1", 4)
    job = Job("SHARING")
    befores = [job.task(f"A{number}", "demo.work") for number in range(3)]
    for number in range(4):
        job.task(f"B{number}", "demo.work", after=befores)
    run = batch.submit(job)
    batch.deliver()
    assert sorted(batch.executing()) == ["A0", "A1", "A2"]
    actions.hold_run(database, run)
    for task in befores:
        batch.finish(task.name)
    batch.forward()
    batch.deliver()
    assert asides(batch, run) == "B0B1B2B3"
    assert not batch.executing()
    check_counters(database)


def test_a_run_that_is_held_while_it_is_stored_starts_nothing_when_it_opens(batch):
    batch.server("AOS1", 2)
    written = job().spec()
    run, _ = batch.database.run(lambda tx: _store(tx, written))
    actions.hold_run(batch.database, run)
    batch.database.run(lambda tx: moves.start_runs(tx, [run], tx.now()))
    batch.forward()
    assert not batch.mail
    assert asides(batch, run) == "AB"
    actions.release_run(batch.database, run)
    batch.forward()
    assert len(batch.mail) == 2
    check_counters(batch.database)


def _store(tx: Any, spec: Any) -> Any:
    """Store a run that is not open yet."""
    number, now = runs.open_run(tx, spec)
    rows = rows_of(spec)
    runs.add_tasks(tx, [number.task(task) for task in rows.tasks])
    runs.add_conditions(tx, list(number.conditions(rows.conditions)))
    return number.run, now


def test_no_other_run_is_held_up(batch):
    batch.server("AOS1", 1)
    first, second = batch.submit(job("FIRST")), batch.submit(job("SECOND"))
    actions.hold_run(batch.database, first)
    batch.mail.clear()
    batch.forward()
    assert [ticket.run for ticket in batch.mail] == [second]


def test_a_held_run_in_which_the_last_task_ends_closes(batch):
    batch.server("AOS1", 1)
    one = Job("ONE")
    one.task("A", "demo.work")
    run = batch.submit(one)
    batch.deliver()
    actions.hold_run(batch.database, run)
    batch.finish("A")
    assert batch.verdict(run) == "success"
    check_counters(batch.database)


# --- release ------------------------------------------------------------------------------------------------


def mixed() -> Job:
    """Tasks of three classes, one of which follows."""
    job = Job("MIXED")
    first = job.task("A", "demo.work")
    for number, priority in enumerate(["low", "high", "normal", "high", "low"]):
        job.task(f"B{number}", "demo.work", priority=priority)
    job.task("C", "demo.work", after=first, priority="critical")
    return job


def order(batch: Play, *, hold_after: int | None) -> list[str]:
    """The order of the starts on one thread, with a hold and a release in between."""
    batch.server("AOS1", 1)
    run = batch.submit(mixed())
    batch.deliver()
    ended = 0
    while names := batch.executing():
        if ended == hold_after:
            actions.hold_run(batch.database, run)
            batch.finish(names[0])
            batch.database.later(seconds=60)
            batch.deliver()
            assert not batch.executing()
            actions.release_run(batch.database, run)
            batch.forward()
        else:
            batch.finish(names[0])
        batch.deliver()
        ended += 1
        batch.database.later(seconds=1)
    return [start.task for start in batch.starts]


@pytest.mark.parametrize("hold_after", range(6))
def test_after_a_release_tasks_start_in_the_order_in_which_they_would_have_without_a_hold(hold_after):
    held, free = (Play(in_memory(NOON)) for _ in range(2))
    assert order(held, hold_after=hold_after) == order(free, hold_after=None)


def test_tasks_keep_the_time_at_which_they_became_ready(batch):
    batch.server("AOS1", 0)
    run = batch.submit(job())
    before = batch.task(run, "A").ready_at
    actions.hold_run(batch.database, run)
    actions.release_run(batch.database, run)
    assert batch.task(run, "A").ready_at == before
    assert asides(batch, run) == ""


# --- two actions, one after the other -----------------------------------------------------------------------

ACTS: dict[str, Callable[..., Any]] = {
    "hold": actions.hold_run,
    "release": actions.release_run,
    "cancel": actions.cancel_run,
}
# What the second action says, and how the run stands then: its status, and whether it is held.
PAIRS = {
    ("hold", "hold"): ("held already", "executing", True),
    ("hold", "release"): (None, "executing", False),
    ("hold", "cancel"): (None, "canceling", False),
    ("release", "hold"): (None, "executing", True),
    ("release", "release"): ("is not held", "executing", False),
    ("release", "cancel"): (None, "canceling", False),
    ("cancel", "hold"): ("cannot be held", "canceling", False),
    ("cancel", "release"): ("is not held", "canceling", False),
    ("cancel", "cancel"): (None, "canceling", False),
}


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_actions_the_second_sees_what_the_first_did(batch, first, second):
    said, status, held = PAIRS[first, second]
    batch.server("AOS1", 1)
    run = batch.submit(job())
    batch.deliver()
    if first == "release":
        actions.hold_run(batch.database, run)
    ACTS[first](batch.database, run)
    if said is None:
        ACTS[second](batch.database, run)
    else:
        with pytest.raises(Conflict, match=said):
            ACTS[second](batch.database, run)
    with batch.database.read() as tx:
        assert tx.execute(select(RUN.status, RUN.held).where(RUN.id == run)).one() == (status, held)
    batch.mail.clear()
    batch.forward()
    check_counters(batch.database)


def test_a_held_run_is_canceled_and_closes(batch):
    batch.server("AOS1", 1)
    run = batch.submit(job())
    batch.deliver()
    actions.hold_run(batch.database, run)
    assert actions.cancel_run(batch.database, run)["tasks"] == 2
    batch.finish("A")
    assert standing(batch, run) == {"A": "success", "B": "canceled", "C": "canceled"}
    assert batch.verdict(run) == "canceled"
    assert asides(batch, run) == ""
    with pytest.raises(Conflict, match=r"is not held: it has ended \(Canceled\)"):
        actions.release_run(batch.database, run)


# --- every way to become ready ------------------------------------------------------------------------------


def flagged(batch: Play, run: int) -> None:
    """Set the flag of the run, and nothing else: its rows are to follow by themselves."""
    batch.database.run(lambda tx: tx.execute(update(Run).where(RUN.id == run).values(held=True)))


def opened(batch: Play) -> int:
    """A run that was held while it was stored opens."""
    run, _ = batch.database.run(lambda tx: _store(tx, job().spec()))
    flagged(batch, run)
    batch.database.run(lambda tx: moves.start_runs(tx, [run], tx.now()))
    return run


def settled(batch: Play) -> int:
    """A task ends, and the one that follows it becomes ready."""
    run = batch.submit(job())
    batch.deliver()
    flagged(batch, run)
    batch.finish("A")
    return run


def tried_again(batch: Play) -> int:
    """An attempt fails, and there is another one."""
    run = batch.submit(job())
    batch.deliver()
    flagged(batch, run)
    batch.finish("A", ok=False)
    return run


def taken_back(batch: Play) -> int:
    """Tickets that are out go back."""
    run = batch.submit(job())
    flagged(batch, run)
    batch.database.run(lambda tx: moves.unqueue(tx, [(ticket.task, ticket.token) for ticket in batch.mail]))
    batch.mail.clear()
    return run


def held_with_tickets(batch: Play) -> int:
    """A hold takes the tickets of its run back."""
    run = batch.submit(job())
    actions.hold_run(batch.database, run)
    batch.mail.clear()
    return run


# Each move of the store to ready, a way in which it is made, and the tasks that are aside then.
WAYS: dict[tuple[str, str], tuple[Callable[[Play], int], str]] = {
    ("starting", "_READIED"): (opened, "AB"),
    ("settling", "_MOVED_ON"): (settled, "C"),
    ("finishing", "_ENDED"): (tried_again, "A"),
    ("ticketing", "_TAKEN_BACK"): (taken_back, "AB"),
    ("holding", "_TAKEN_BACK"): (held_with_tickets, "AB"),
}
# An operator's retry has tests of its own.
ELSEWHERE = {"retrying"}


@pytest.mark.parametrize("way", WAYS, ids=".".join)
def test_whatever_becomes_ready_in_a_held_run_is_aside(batch, way):
    act, names = WAYS[way]
    batch.server("AOS1", 2)
    run = act(batch)
    assert asides(batch, run) == names
    batch.forward()
    assert not batch.mail
    check_counters(batch.database)


def test_every_move_to_ready_is_in_the_table_of_ways():
    places = [import_module(f"batchq.store.moves.{each.name}") for each in iter_modules(moves.__path__)]
    found = {
        (place.__name__.rpartition(".")[2], name)
        for place in places
        for name, value in vars(place).items()
        if isinstance(value, TaskMove) and State.READY in value.after
    }
    assert {each for each in found if each[0] not in ELSEWHERE} == WAYS.keys()


def test_a_run_that_was_held_and_canceled_while_it_was_stored_is_not_held_any_more(batch):
    number, _ = batch.database.run(runs.open_run, job().spec())
    actions.hold_run(batch.database, number.run)
    assert actions.cancel_run(batch.database, number.run)["held"] is False
    assert batch.verdict(number.run) == "canceled"
    with pytest.raises(Conflict, match="not held"):
        actions.release_run(batch.database, number.run)
    assert not batch.database.run(moves.anything_open)
