"""The tables of hostile operations, played on the function that a pool runs: exceptions and results here, what an
operation leaves changed in a process forked for it. Deaths need a pool: see e2e/test_hostile.py."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchq.core.ends import Failure
from batchq.core.retries import CLASS_CHARS, MOST_CLASSES
from batchq.core.secrets import Veil
from batchq.server.child import exceptions
from batchq.server.child.executing import execute
from batchq.server.child.order import ERROR_CHARS, Current, Done, Order
from batchq.server.execution import Execution
from support.hostile_acts import SPOILINGS
from support.hostile_app import app
from support.hostile_values import ELSEWHERE, EXCEPTIONS, RESULTS

FORK = multiprocessing.get_context("fork")


def run(operation: str, alone: bool = False, **kwargs: str) -> Done:
    app.set_current()
    work = Current("J", 1, "A", 1)
    return execute(Order(operation, "[]", json.dumps(kwargs), "t", work, "h", "g", 65536, 65536, alone))


def in_a_thread(operation: str, **kwargs: str) -> Done:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run, operation, **kwargs).result()


@pytest.mark.parametrize("pool", [run, in_a_thread], ids=["process", "thread"])
@pytest.mark.parametrize("case", EXCEPTIONS)
def test_whatever_is_raised_becomes_an_error_with_its_log(case: str, pool: Any) -> None:
    began = time.monotonic()
    done = pool("hostile.raise", case=case)

    assert time.monotonic() - began < 5
    assert not done.ok
    assert done.error.startswith(EXCEPTIONS[case][1])
    assert len(done.error) <= ERROR_CHARS
    assert done.error == done.error.encode().decode().replace("\0", "")
    assert f"raises {case}" in done.log or "left out" in done.log
    assert len(done.log) < 66_000
    assert "Traceback" in done.log or "left out" in done.log
    assert all(type(name) is str and len(name) <= CLASS_CHARS for name in done.classes)
    assert len(done.classes) <= MOST_CLASSES
    assert done.classes[-1] == "BaseException"


@pytest.mark.parametrize("pool", [run, in_a_thread], ids=["process", "thread"])
@pytest.mark.parametrize("place", ELSEWHERE)
def test_what_hooks_receivers_and_the_log_raise_is_an_outcome_too(place: str, pool: Any) -> None:
    done = pool("hostile.elsewhere", place=place)

    state, error = ELSEWHERE[place]
    assert (done.ok, done.error or "") == (state == "success", error)


@pytest.mark.parametrize("pool", [run, in_a_thread], ids=["process", "thread"])
@pytest.mark.parametrize("case", RESULTS)
def test_a_result_that_cannot_be_kept_is_a_success_without_one(case: str, pool: Any) -> None:
    done = pool("hostile.return", case=case)

    assert (done.ok, done.error) == (True, None)
    assert (done.result is not None) is RESULTS[case][1]
    assert done.result is not None or "The result is not kept" in done.log


def test_a_soft_limit_that_comes_while_the_result_is_taken_is_no_result() -> None:
    done = run("hostile.return", case="a soft limit")

    assert (done.ok, done.error) == (False, "SoftTimeLimitExceeded: SoftTimeLimitExceeded()")


# A class with a module or a name that no text can hold, and how its full name is told.
NAMES: dict[str, tuple[type[BaseException], str]] = {
    "a module that is no text": (type("Odd", (Exception,), {"__module__": 17}), "Odd"),
    "a module that says whatever": (type("Odd", (Exception,), {"__module__": "a\x00b\ud800"}), "a\ufffdb?.Odd"),
    "the name of another": (type("Final", (Exception,), {"__module__": "batchq"}), "batchq.Final"),
    "a very long name": (type("N" * 100_000, (Exception,), {}), f"{__name__}.NNNN"),
    "a secret": (type("letmein", (Exception,), {"__module__": "letmein"}), "***.***"),
}


@pytest.mark.parametrize("case", NAMES)
def test_the_class_of_an_error_is_told_whatever_it_is_called(case: str) -> None:
    kind, name = NAMES[case]
    veil = Veil({"password": "letmein"})
    found = exceptions.classes(kind("no"), veil.hide)

    assert found[0].startswith(name)
    assert len(found[0]) <= CLASS_CHARS
    assert found[-2:] == ("Exception", "BaseException")


class Told(Execution):
    """An attempt without a worker, of which the report is looked at."""

    def __init__(self, kwargs: str) -> None:
        self.row, self.reports, self.hard_limit = SimpleNamespace(kwargs=kwargs), [], None

    def _fail(self, end: Failure) -> None:
        self.reports.append(end.error)


@pytest.mark.parametrize("case", EXCEPTIONS)
def test_what_the_pool_says_of_a_failure_reaches_the_report_whatever_it_is(case: str) -> None:
    make, start = EXCEPTIONS[case]
    attempt = Told(json.dumps([{}, {"password": "no such order"}]))
    attempt.on_failure(SimpleNamespace(exception=make()))

    (error,) = attempt.reports
    assert error.startswith(start.replace("no such order", "***"))
    assert "no such order" not in error
    assert len(error) <= ERROR_CHARS


# --- what is left changed -----------------------------------------------------------------------------------


def forked(play: Callable[[], Any]) -> Any:
    """What `play` returns in a process of its own."""
    ours, theirs = FORK.Pipe(duplex=False)
    send = theirs.send
    process = FORK.Process(target=lambda: send(play()))
    process.start()
    theirs.close()
    try:
        assert ours.poll(20), "no answer"
        return ours.recv()
    finally:
        process.kill()
        process.join()


def played(case: str) -> tuple[Done, Done, Done | None]:
    """What a process finds before, and after, a case; and between them how the case itself ended."""

    def play() -> tuple[Done, Done, Done | None]:
        first = run("hostile.well", alone=True)
        spoiled = run("hostile.spoil", alone=True, case=case)
        return first, spoiled, None if spoiled.spent else run("hostile.well", alone=True)

    found: tuple[Done, Done, Done | None] = forked(play)
    return found


@pytest.mark.parametrize("case", SPOILINGS)
def test_what_an_operation_leaves_changed_is_put_back_or_its_process_is_spent(case: str) -> None:
    first, spoiled, then = played(case)

    assert (first.ok, first.error, first.spent) == (True, None, False)
    assert (spoiled.ok, spoiled.error) == (True, None)
    assert spoiled.result == '"spoiled"'
    assert then is None or (then.ok, then.error, json.loads(then.result or "null")) == (
        True,
        None,
        json.loads(first.result),
    )


def test_what_was_put_back_stands_in_the_attempts_log() -> None:
    _, done, _ = played("umask")

    assert "The operation left changed: umask; that was put back." in done.log


def test_a_process_that_nothing_has_changed_says_nothing() -> None:
    _, done, then = played("random")

    assert (done.log, done.spent) == (None, False)
    assert "left changed" not in then.log


def test_a_log_file_that_was_rotated_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    def play() -> Done:
        handler = RotatingFileHandler(tmp_path / "log", backupCount=1)
        logging.getLogger().addHandler(handler)
        run("hostile.well", alone=True)
        handler.doRollover()
        return run("hostile.well", alone=True)

    done = forked(play)

    assert (done.ok, done.spent) == (True, False)
    assert "left changed" not in done.log
    assert "looks around" in (tmp_path / "log").read_text()


def test_on_the_threads_pool_nothing_is_put_back() -> None:
    level = logging.getLogger().level
    try:
        done = in_a_thread("hostile.spoil", case="the root logger's level")
        assert (done.spent, logging.getLogger().level) == (False, 100)
    finally:
        logging.getLogger().setLevel(level)
