"""The watch: an attempt counts as lost when nobody here has it, not when the loop has yet to hear of its claim."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from batchq.config import Settings
from batchq.engine import Offer
from batchq.server import watch as watching
from batchq.server.ledger import Ledger
from batchq.server.surroundings import Arrival, Surroundings
from batchq.server.tickets import LocalMessage
from batchq.server.watch import Watch, connection_of_its_own
from batchq.store.database import Database
from stage import Stage

JOB = "job: JOB\ntasks: {A: {run: demo.work}}"
SETTINGS = Settings(lost_attempt_seconds=1e-6)


class Loop:
    """An event loop that turns when the test says so."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        """There is nothing to wait for here."""

    def turn(self) -> None:
        while self.soon:
            self.soon.pop(0)()


class Nobody:
    """Sends nothing."""

    unsendable: frozenset[str] = frozenset()

    def publish(self, tickets: list[Any]) -> list[Any]:
        """There is nobody else."""
        return []


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def started() -> list[str]:
    return []


@pytest.fixture
def ledger(stage: Stage, loop: Loop, started: list[str]) -> Iterator[Ledger]:
    """A server's, whose commits run beside the loop."""
    life = stage.server("AOS1", 1)
    assert life is not None
    database = Database(str(stage.database.url))
    around = Surroundings(
        database,
        SETTINGS,
        Nobody(),
        loop,
        lambda arrival, row: started.append(row.name),
        pool=lambda: 10,
        beside=ThreadPoolExecutor(1),
    )
    ledger = Ledger(life, around)
    yield ledger
    ledger.close()
    database.dispose()


def claimed(stage: Stage, ledger: Ledger, loop: Loop) -> int:
    """Let the ledger claim the job's task; its loop has not heard of it yet. Returns the run."""
    run = stage.submit(JOB)
    (ticket,) = stage.tickets.values()
    ledger.offer(Arrival(Offer(ticket.task, ticket.token, ticket.group), LocalMessage(), time.monotonic()))
    ledger._tokens.clear()  # as if the server had handed the ticket to itself
    loop.turn()
    deadline = time.monotonic() + 30
    while not loop.soon:
        assert time.monotonic() < deadline
    return run


def test_what_a_commit_claimed_is_not_lost_while_the_loop_has_not_heard_of_it(
    stage: Stage, ledger: Ledger, loop: Loop, started: list[str]
) -> None:
    run = claimed(stage, ledger, loop)
    watch = Watch(connection_of_its_own(stage.database), SETTINGS, ledger)
    for _ in range(3):
        watch._look()

    assert (stage.states(run), started) == ({"A": "executing"}, [])
    loop.turn()
    assert (stage.states(run), started) == ({"A": "executing"}, ["A"])


def test_nor_is_it_while_the_loop_asks_again_since_the_answer_had_grown_old(
    stage: Stage, ledger: Ledger, loop: Loop, started: list[str]
) -> None:
    run = claimed(stage, ledger, loop)
    watch = Watch(connection_of_its_own(stage.database), SETTINGS, ledger)
    watch._look()
    ledger._settings = SETTINGS.model_copy(update={"lost_seconds": 1e-6})
    loop.soon.pop(0)()  # it takes in the end of the commit, and finds it too old
    ledger._arrivals.clear()  # what a server hands itself never arrived: there was another reason to commit
    ledger.go_on()
    watch._look()

    assert (stage.states(run), started) == ({"A": "executing"}, [])
    ledger._settings = SETTINGS
    turn_until(loop, lambda: bool(started))
    assert (stage.states(run), started) == ({"A": "executing"}, ["A"])


def test_the_watch_looks_when_it_is_asked_to_and_seldom_though_it_is_asked_often(
    stage: Stage, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "WATCH_SECONDS", 60.0)
    settings = SETTINGS.model_copy(update={"heartbeat_seconds": 60.0})
    watch = Watch(connection_of_its_own(stage.database), settings, ledger)
    looks: list[float] = []
    look = watch._look
    monkeypatch.setattr(watch, "_look", lambda: (looks.append(time.monotonic()), look()))
    watch.start()
    deadline = time.monotonic() + 30
    while len(looks) < 4:
        watch.look()
        assert time.monotonic() < deadline
    watch.stop()

    assert watch.wanted is not None
    assert min(later - before for before, later in pairwise(looks)) >= watching.LEAST_SECONDS * 0.9


def turn_until(loop: Loop, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        loop.turn()
        assert time.monotonic() < deadline


def test_what_the_books_have_and_nobody_here_is_lost(
    stage: Stage, ledger: Ledger, loop: Loop, started: list[str]
) -> None:
    run = claimed(stage, ledger, loop)
    loop.turn()
    ledger._tokens.clear()
    watch = Watch(connection_of_its_own(stage.database), SETTINGS, ledger)
    for _ in range(3):
        watch._look()

    assert stage.states(run) == {"A": "error"}


def test_a_look_that_fails_for_a_reason_nobody_knows_does_not_stop_the_heart(stage: Stage, ledger: Ledger) -> None:
    watch = Watch(
        connection_of_its_own(stage.database), SETTINGS.model_copy(update={"heartbeat_seconds": 0.05}), ledger
    )
    beats: list[int] = []
    beat = watch._beat

    def counted() -> None:
        beats.append(1)
        beat()

    def broken() -> None:
        raise RuntimeError("what nobody reckoned with")

    watch._beat, watch._look = counted, broken  # type: ignore[method-assign]
    watch.start()
    deadline = time.monotonic() + 30
    while len(beats) < 3:
        assert watch.is_alive()
        assert time.monotonic() < deadline
        watch.look()
    watch.stop()
