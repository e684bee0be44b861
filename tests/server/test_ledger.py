"""The ledger: one commit for all that is there, nothing lost while the database is away, each attempt reported once."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kombu.asynchronous import Hub

from batchq import views
from batchq.config import Settings
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.engine import Offer, Report
from batchq.errors import BrokerUnreachable, DatabaseUnreachable
from batchq.server import ledger, linger, sending
from batchq.server.ledger import Ledger
from batchq.server.surroundings import Arrival, Surroundings
from batchq.store.database import Database
from batchq.store.moves import Ticket
from stage import Stage

WIDE = "job: WIDE\ntasks:\n" + "\n".join(f"  T{n}: {{run: demo.work}}" for n in range(6))


@dataclass
class Loop:
    """An event loop that turns when the test says so; what shall happen later waits aside."""

    soon: list[Callable[[], object]] = field(default_factory=list)
    later: list[Callable[[], object]] = field(default_factory=list)
    moment: list[Callable[[], object]] = field(default_factory=list)

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        (self.moment if delay <= linger.LINGER_SECONDS else self.later).append(callback)

    def turn(self, *, moment: bool = True) -> None:
        """Do all that is due, also what is due in a `moment`."""
        while self.soon or (moment and self.moment):
            (self.soon or self.moment).pop(0)()


@dataclass
class Broker:
    """Takes tickets, unless it is away, or refuses their group."""

    sent: list[Ticket] = field(default_factory=list)
    away: bool = False
    refuses: set[str] = field(default_factory=set)
    unsendable: set[str] = field(default_factory=set)

    def publish(self, tickets: list[Ticket]) -> list[Ticket]:
        if self.away:
            raise BrokerUnreachable(url="redis://", reason="gone")
        refused = [ticket for ticket in tickets if ticket.group in self.refuses]
        self.unsendable |= {ticket.group for ticket in refused}
        self.sent += [ticket for ticket in tickets if ticket not in refused]
        return refused


@dataclass
class Message:
    """A message that counts its acknowledgements."""

    acknowledged: int = 0

    def ack(self) -> None:
        self.acknowledged += 1


class Bench:
    """A server's ledger on a real database, with its loop, its broker and what it started."""

    def __init__(
        self, stage: Stage, threads: int, *, hub: Hub | None = None, beside: bool = False, **settings: Any
    ) -> None:
        self.stage = stage
        life = stage.server("Batch1", threads)
        assert life is not None
        self.loop, self.broker = Loop(), Broker()
        self.started: dict[str, tuple[Arrival, Any]] = {}
        self.commits = 0
        self.database = Database(str(stage.database.url), patience=0.05)
        run = self.database.run

        def counted(*args: Any, **named: Any) -> Any:
            self.commits += 1
            return run(*args, **named)

        self.database.run = counted  # type: ignore[method-assign]
        around = Surroundings(
            self.database,
            Settings(**settings),
            self.broker,
            hub or self.loop,
            self.start,
            pool=lambda: 1000,
            beside=ThreadPoolExecutor(1) if beside else None,
        )
        self.ledger = Ledger(life, around)

    def start(self, arrival: Arrival, row: Any) -> None:
        self.started[row.name] = arrival, row

    def arrive(self, ticket: Ticket) -> Message:
        message = Message()
        self.ledger.offer(Arrival(Offer(ticket.task, ticket.token, ticket.group), message, since=float("inf")))
        return message

    def arrive_all(self) -> list[Message]:
        return [self.arrive(ticket) for ticket in self.stage.tickets.values()]

    def end(self, name: str, ok: bool = True) -> None:
        arrival, row = self.started.pop(name)
        end = Success() if ok else Failure(Reason.ERROR, "told to fail")
        self.ledger.report(arrival, Report(row.id, row.token, end))

    def states(self, run: int) -> dict[str, str]:
        with self.database.read() as tx:
            return {task["name"]: task["status"] for task in views.run_view(tx, run)["tasks"]}


@pytest.fixture
def bench(stage: Stage) -> Bench:
    return Bench(stage, threads=3)


def test_all_that_arrived_is_claimed_in_one_commit(bench: Bench):
    bench.stage.submit(WIDE)
    bench.arrive_all()

    bench.loop.turn()

    assert bench.commits == 1
    assert list(bench.started) == ["T0", "T1", "T2"]


def test_who_reports_after_a_commit_was_put_together_still_takes_a_thread_in_it(bench: Bench):
    """On PostgreSQL commits run beside the loop: what the books call executing until the next one has its thread."""
    bench.stage.submit(WIDE)
    bench.arrive_all()
    bench.loop.turn()

    bench.end("T0")
    batch = bench.ledger._take()
    assert batch is not None
    bench.end("T1")
    served, error = bench.ledger._committer.commit(batch)

    assert (error, [row.name for row in served.granted]) == (None, ["T3"])  # type: ignore[union-attr]


def test_what_was_started_together_is_waited_for_a_moment_and_stored_together(bench: Bench):
    run = bench.stage.submit(WIDE)
    bench.arrive_all()
    bench.loop.turn()

    bench.end("T0")
    bench.end("T1")
    bench.loop.turn(moment=False)
    assert bench.commits == 1
    bench.end("T2")
    bench.loop.turn(moment=False)  # now nothing more can be expected
    assert bench.commits == 2
    bench.loop.turn()

    assert bench.commits == 2
    assert Counter(bench.states(run).values())["success"] == 3


def test_what_was_started_alone_or_some_time_ago_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linger, "FRESH_SECONDS", 0.0)
    bench.stage.submit(WIDE)
    bench.arrive_all()
    bench.loop.turn()

    bench.end("T0")
    bench.loop.turn(moment=False)

    assert bench.commits == 2


def test_what_ended_is_stored_and_its_successors_begin_in_the_same_commit_without_a_message(bench: Bench):
    run = bench.stage.submit(WIDE)
    messages = bench.arrive_all()
    bench.loop.turn()
    assert [message.acknowledged for message in messages] == [1, 1, 1]  # claimed: from here on SQL has the truth

    bench.end("T0")
    bench.end("T1", ok=False)
    bench.loop.turn()

    assert bench.commits == 2
    assert [message.acknowledged for message in messages] == [1, 1, 1]
    assert list(bench.started) == ["T2", "T3", "T4"]
    assert bench.broker.sent == []
    assert bench.states(run) == {
        "T0": "success",
        "T1": "error",
        "T2": "executing",
        "T3": "executing",
        "T4": "executing",
        "T5": "ready",
    }


def test_a_second_copy_of_a_ticket_starts_nothing_and_is_counted(bench: Bench):
    bench.stage.submit(WIDE)
    ticket = next(iter(bench.stage.tickets.values()))
    bench.arrive(ticket)
    copy = bench.arrive(ticket)
    bench.loop.turn()
    late = bench.arrive(ticket)
    bench.loop.turn()

    assert list(bench.started) == ["T0"]
    assert (copy.acknowledged, late.acknowledged) == (1, 1)
    assert bench.ledger.counts["stale"] == 2


def test_only_the_first_report_of_an_attempt_counts(bench: Bench):
    run = bench.stage.submit(WIDE)
    bench.arrive_all()
    bench.loop.turn()
    arrival, row = bench.started["T0"]

    bench.ledger.report(arrival, Report(row.id, row.token, Failure(Reason.TIMED_OUT, "timed out")))
    bench.ledger.report(arrival, Report(row.id, row.token, Success()))
    bench.loop.turn()

    assert bench.states(run)["T0"] == "error"


def test_a_database_that_is_away_costs_nothing_but_time(bench: Bench):
    run = bench.stage.submit(WIDE)
    bench.arrive_all()
    bench.loop.turn()
    path = Path(str(bench.database.url.database))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    bench.end("T0")
    bench.loop.turn()
    bench.end("T1")
    bench.loop.turn()
    assert bench.states(run)["T0"] == "executing"
    assert bench.ledger.unstored() != []

    blocker.execute("ROLLBACK")
    blocker.close()
    bench.ledger._outage.retry_at = 0.0
    bench.loop.later.pop()()
    bench.loop.turn()

    assert bench.ledger.unstored() == []
    assert [bench.states(run)[name] for name in ("T0", "T1")] == ["success", "success"]


def test_a_ticket_that_finds_no_thread_waits_and_goes_back_when_it_waited_too_long(stage: Stage):
    bench = Bench(stage, threads=1)
    other = stage.server("Batch2", 1)
    assert other is not None
    run = stage.submit(WIDE)
    first, second = stage.tickets.values()
    bench.arrive(first)
    bench.loop.turn()

    message = Message()
    bench.ledger.offer(Arrival(Offer(second.task, second.token, second.group), message, since=float("inf")))
    bench.loop.turn()
    assert bench.states(run)["T1"] == "queued"
    assert message.acknowledged == 0
    assert [bench.ledger.waits(ticket.token) for ticket in (first, second)] == [False, True]

    for arrival in bench.ledger._parked:
        arrival.since = 0.0
    bench.ledger.look_again()
    bench.loop.turn()

    assert message.acknowledged == 1
    assert [ticket.name for ticket in bench.broker.sent] == ["T1"]
    assert bench.broker.sent[0].token != second.token


def test_tickets_that_the_broker_did_not_take_are_sent_once_it_is_back(stage: Stage, monkeypatch):
    monkeypatch.setattr(sending, "UNSENT_SECONDS", 0.0)
    bench = Bench(stage, threads=1)
    stage.submit(WIDE)
    bench.arrive_all()
    bench.loop.turn()
    stage.server("Batch2", 1)
    bench.broker.away = True
    bench.end("T0")
    bench.loop.turn()
    assert bench.broker.sent == []

    bench.broker.away = False
    bench.ledger.look_again()

    assert [ticket.name for ticket in bench.broker.sent] == ["T2"]


def test_a_fenced_ledger_stores_nothing_until_it_has_a_new_life(bench: Bench):
    run = bench.stage.submit(WIDE)
    bench.arrive_all()
    bench.loop.turn()
    life = bench.stage.server("Batch1", 3)
    assert life is not None

    bench.end("T0")
    bench.loop.turn()
    assert bench.ledger.fenced

    bench.ledger.begin_life(life)
    bench.loop.turn()

    assert bench.ledger.counts["stale"] == 1
    assert bench.states(run)["T0"] == "error"


def test_what_was_claimed_in_a_commit_whose_answer_never_came_is_started_once_it_is_known(bench: Bench):
    """The server hands two tasks to itself; the commit is made, and the caller hears of an error."""
    run = bench.stage.submit(WIDE)
    bench.arrive_all()
    bench.loop.turn()
    commit = bench.database.run

    def deaf(*args: Any, **named: Any) -> Any:
        bench.database.run = commit  # type: ignore[method-assign]
        commit(*args, **named)
        raise DatabaseUnreachable(url="sqlite://", reason="the reply was lost")

    bench.database.run = deaf  # type: ignore[method-assign]
    bench.end("T0")
    bench.end("T1")
    bench.loop.turn()
    assert list(bench.started) == ["T2"]

    bench.ledger._outage.retry_at = 0.0
    bench.loop.later.pop()()
    bench.loop.turn()

    assert list(bench.started) == ["T2", "T3", "T4"]
    assert Counter(bench.states(run).values()) == {"success": 2, "executing": 3, "ready": 1}
    for name in ("T2", "T3", "T4"):
        bench.end(name)
    bench.loop.turn()
    bench.end("T5")
    bench.loop.turn()
    assert set(bench.states(run).values()) == {"success"}


# --- in the loop that it lives in ---------------------------------------------------------------------------


class Poller:
    """Celery's poller, which tells how long the loop would wait although there is something to store."""

    def __init__(self, hub: Hub) -> None:
        self.poller = hub.poller
        self.unstored: Callable[[], object] = lambda: False
        self.idled: list[float] = []

    def poll(self, timeout: float) -> Any:
        if self.unstored():
            self.idled.append(timeout)
        return self.poller.poll(timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.poller, name)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """An event loop of Celery's, with one reader, as without any it does not wait at all."""
    hub = Hub()
    hub.poller = Poller(hub)
    reader, writer = os.pipe()
    hub.add_reader(reader, lambda *_: None, reader)
    yield hub
    hub.close()
    os.close(reader)
    os.close(writer)


def turned(hub: Hub, done: Callable[[], object]) -> None:
    """Turn the loop until it is `done`."""
    loop, deadline = hub.create_loop(), time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        next(loop)


@pytest.mark.parametrize("beside", [True, False], ids=["commits beside the loop", "commits in the loop"])
def test_what_comes_in_during_a_commit_is_stored_as_soon_as_it_has_ended(stage: Stage, hub: Hub, beside: bool):
    bench = Bench(stage, threads=6, hub=hub, beside=beside)
    stage.submit(WIDE)
    bench.arrive_all()
    turned(hub, lambda: len(bench.started) == 6)
    run = bench.database.run

    def meanwhile(*args: Any, **named: Any) -> Any:
        served = run(*args, **named)
        if bench.started:
            bench.end(next(iter(bench.started)))
        return served

    bench.database.run = meanwhile  # type: ignore[method-assign]
    hub.poller.unstored = lambda: bench.ledger.unstored() and not bench.ledger.commits
    bench.end("T0")
    turned(hub, lambda: bench.ledger.idle)

    bench.ledger.close()
    assert set(bench.states(1).values()) == {"success"}
    # No longer than for the reports that may come with it: the loop would wait for an event otherwise.
    assert all(timeout <= linger.LINGER_SECONDS for timeout in hub.poller.idled)


def test_a_timer_that_is_late_makes_the_loop_wait_no_longer(
    stage: Stage, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "AT_ONCE_SECONDS", 0.0)
    test_what_comes_in_during_a_commit_is_stored_as_soon_as_it_has_ended(stage, hub, beside=False)


def test_a_ticket_whose_queue_is_refused_goes_back_and_its_thread_to_another_group(bench: Bench):
    bench.stage.server("Batch2", 1, groups=["BAD", "GOOD"])
    run = bench.stage.submit(
        "job: J\ntasks:\n  A: {run: demo.work}\n"
        "  B: {run: demo.work, group: BAD, priority: high, after: A}\n  G: {run: demo.work, group: GOOD, after: A}"
    )
    bench.arrive_all()
    bench.loop.turn()
    bench.broker.refuses = {"BAD"}
    bench.end("A")
    bench.loop.turn()

    assert bench.states(run) == {"A": "success", "B": "ready", "G": "queued"}
    assert [ticket.name for ticket in bench.broker.sent] == ["G"]
