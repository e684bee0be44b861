"""A life: which process a server's row means, and what may be said of it from here (rule 31)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from celery import Celery

from batchq.catalogue import Catalogue
from batchq.config import Settings
from batchq.coordinator import Silence
from batchq.errors import Conflict, ServerRuns
from batchq.server.life import Enlistment, Machine, seen_alive, this_life
from stage import Stage

SAY_AND_WAIT = "import json, sys; from batchq.server.life import *; print(json.dumps(this_life()), flush=True); input()"
OWN_PIDS = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
PIDS_WITH_FOREIGN_PROC = ("unshare", "--pid", "--fork", "--kill-child")
OWN_TIME = ("unshare", "--time", "--boottime", "100000", "--fork", "--kill-child")


def row_of(facts: dict[str, Any], **changed: Any) -> Any:
    return SimpleNamespace(**facts | changed)


@contextmanager
def another(*wrapped: str) -> Iterator[dict[str, Any]]:
    """A process that says which life it is, and lives until the end of the block."""
    argv = [*wrapped, sys.executable, "-c", SAY_AND_WAIT]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        line = it.stdout.readline()
        if not line and wrapped:
            pytest.skip(f"NOT TESTED: {' '.join(wrapped)} is not allowed here")
        try:
            yield json.loads(line)
        finally:
            it.kill()


def test_a_process_of_this_host_is_seen_alive_until_it_ends() -> None:
    with another() as facts:
        assert seen_alive(row_of(facts)) is True
    assert seen_alive(row_of(facts)) is False
    assert seen_alive(row_of(this_life())) is True


def test_a_life_tells_the_operations_of_its_app_that_may_run_once_more() -> None:
    assert "repeatable" not in json.loads(this_life()["life"])
    facts = this_life(repeatable=["b", "a"])
    assert json.loads(facts["life"])["repeatable"] == ["a", "b"]
    assert seen_alive(row_of(facts)) is True


def test_an_operation_says_that_it_may_run_once_more() -> None:
    app = Celery("shop", set_as_current=False)

    def act() -> None: ...

    app.task(act, name="again", repeatable=True)
    app.task(act, name="once")
    app.task(act, name="odd", repeatable="yes")
    assert Catalogue(app, Settings()).repeatable() == ["again"]


def test_a_pid_that_was_given_to_another_process_is_no_sign_of_life() -> None:
    facts = this_life()
    older = json.loads(facts["life"]) | {"start": "1"}
    assert seen_alive(row_of(facts, life=json.dumps(older))) is False


@pytest.mark.parametrize("wrapped", [OWN_PIDS, PIDS_WITH_FOREIGN_PROC], ids=["own /proc", "foreign /proc"])
def test_a_process_in_another_pid_namespace_cannot_be_seen_alive_or_dead(wrapped: tuple[str, ...]) -> None:
    with another(*wrapped) as facts:
        assert facts["host"] == this_life()["host"]
        assert seen_alive(row_of(facts)) is None
    assert seen_alive(row_of(facts)) is None


def test_a_start_time_by_another_boots_clock_is_no_sign_of_death() -> None:
    with another(*OWN_TIME) as facts:
        assert seen_alive(row_of(facts)) is None
        process = psutil.Process(facts["pid"])
    psutil.wait_procs([process], timeout=30)
    assert seen_alive(row_of(facts)) is False


def test_another_machine_of_the_same_name_cannot_be_seen() -> None:
    facts = this_life()
    elsewhere = json.loads(facts["life"]) | {"boot": "another"}
    assert seen_alive(row_of(facts, life=json.dumps(elsewhere))) is None
    assert seen_alive(row_of(facts, host="another")) is None


def test_the_row_of_an_older_version_may_show_that_its_process_runs_but_not_that_it_is_gone() -> None:
    def older(facts: dict[str, Any]) -> Any:
        known = json.loads(facts["life"])
        return row_of(facts, life=json.dumps({"boot": known["boot"], "start": known["start"]}))

    with another() as facts:
        assert seen_alive(older(facts)) is True
    assert seen_alive(older(facts)) is None


# --- taking a name ------------------------------------------------------------------------------------------


@pytest.fixture
def unseen(stage: Stage) -> Stage:
    """A stage on which AOS1 runs on a host that cannot be seen."""
    stage.server("AOS1", 1)
    return stage


class Clock(Machine):
    """This machine, by a clock that the test sets."""

    now = 1000.0

    def monotonic(self) -> float:  # type: ignore[override]
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def enlistment(stage: Stage, clock: Clock, **more: Any) -> Enlistment:
    return Enlistment(stage.database, Settings(lost_seconds=30), "AOS1", "prefork", machine=clock, **more)


def beat(stage: Stage) -> None:
    stage.database.run(lambda tx: tx.exec_driver_sql("UPDATE batchq_server SET beat = beat + 1"))


def test_a_life_that_cannot_be_seen_is_followed_after_its_silence_and_not_before(unseen: Stage, clock: Clock) -> None:
    waiting = enlistment(unseen, clock)
    assert waiting.ask() is None
    clock.now += 29
    assert waiting.ask() is None
    clock.now += 2
    assert waiting.ask() is not None


def test_the_time_in_which_a_process_stood_still_is_no_silence_of_the_life_that_it_reads_then(
    unseen: Stage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, run = enlistment(unseen, clock), unseen.database.run

    def stands_still(*args: Any) -> Any:
        clock.now += 60
        return run(*args)

    monkeypatch.setattr(unseen.database, "run", stands_still)
    assert waiting.ask() is None
    monkeypatch.undo()
    clock.now += 29
    assert waiting.ask() is None
    clock.now += 2
    assert waiting.ask() is not None


def test_a_heartbeat_refuses_whoever_waits_for_silence(unseen: Stage, clock: Clock) -> None:
    waiting = enlistment(unseen, clock)
    assert waiting.ask() is None
    beat(unseen)
    clock.now += 100
    with pytest.raises(ServerRuns):
        waiting.ask()


def test_a_life_that_stopped_meanwhile_is_followed_at_once(unseen: Stage, clock: Clock) -> None:
    waiting = enlistment(unseen, clock)
    assert waiting.ask() is None
    unseen.database.run(lambda tx: tx.exec_driver_sql("UPDATE batchq_server SET liveness = 'stopped'"))
    assert waiting.ask() is not None


def test_a_life_whose_name_is_taken_twice_within_its_silence_ends(stage: Stage, clock: Clock) -> None:
    assert enlistment(stage, clock).ask() is not None
    again = enlistment(stage, clock, anew=True)
    assert again.ask() is not None
    clock.now += 31
    assert again.ask() is not None
    clock.now += 29
    with pytest.raises(Conflict, match="AOS1 lost its name twice within 30 s"):
        again.ask()


def test_a_coordinator_that_stood_still_while_it_read_counts_a_silence_from_then_on() -> None:
    silence = Silence(30)
    assert silence.of([(1, "AOS1", 1, 7)], 1000.0, 1009.0) == []
    for clock in range(1009, 1039, 5):
        assert silence.of([(1, "AOS1", 1, 7)], clock, clock) == []
    assert silence.of([(1, "AOS1", 1, 7)], 1040.0, 1040.0) == [(1, "AOS1", 7)]
