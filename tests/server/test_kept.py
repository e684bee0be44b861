"""The log that is kept of an attempt: its end, in bounded memory, whatever is said and however it is cut."""

from __future__ import annotations

import itertools
import json
import logging
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from celery import Celery

from batchq.core.secrets import Veil
from batchq.server.child import Current, Order, execute
from batchq.server.kept import Kept, listen

LIMIT = 65536
MOST = 8 * LIMIT
VEIL = Veil({"password": "hunter2 and more", "key": "more than that"})

app = Celery("talks", set_as_current=False)


def grown(act: Callable[[], object]) -> int:
    """The most bytes that were in use meanwhile beyond those before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        act()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("veil", [None, VEIL], ids=["open", "veiled"])
@pytest.mark.parametrize(
    "text", ["x" * 100_000_000, "ø" * 50_000_000, "\U0001f600" * 25_000_000], ids=["ascii", "latin", "astral"]
)
def test_a_line_of_a_hundred_megabytes_costs_a_few_times_what_is_kept(text: str, veil: Veil | None) -> None:
    log = Kept(LIMIT, veil)

    assert grown(lambda: log.write(text, "\n")) < MOST
    said = log.text()
    assert said.startswith(f"[… {len(text) + 1 - len(said.partition(chr(10))[2])} characters left out …]\n")
    assert len(said.encode()) < LIMIT + 100


def test_ten_million_lines_cost_no_more() -> None:
    log, line = Kept(LIMIT, None), "a line of its own\n" * 1000

    def write() -> None:
        for _ in range(10_000):
            log.write(line)

    assert grown(write) < MOST
    assert log.text().startswith(f"[… {10_000 * len(line) - LIMIT} characters left out …]\n")


def test_many_texts_cost_no_more() -> None:
    log = Kept(LIMIT, VEIL)

    def write() -> None:
        for _ in range(10_000):
            log.write("a text that has no secret in it, and is short enough to be one of many", "\n")

    assert grown(write) < MOST


def test_nothing_said_is_no_log_and_of_a_limit_of_zero_nothing_is_kept() -> None:
    assert Kept(LIMIT, None).text() is None
    log = Kept(0, None)
    log.write("ab")
    assert log.text() == "[… 2 characters left out …]\n"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 17])
def test_a_secret_that_comes_in_pieces_is_hidden(size: int) -> None:
    text = "so hunter2 and more, hunter2 and more than that; hunter2 an"
    log = Kept(LIMIT, VEIL)
    for start in range(0, len(text), size):
        log.write(text[start : start + size])

    assert log.text() == "so ***, ***; hunter2 an"


@pytest.mark.parametrize("limit", range(1, 40))
def test_a_secret_at_the_cut_is_hidden(limit: int) -> None:
    log = Kept(limit, VEIL)
    log.write("before hunter2 and more after")

    assert "before *** after".endswith(log.text().rpartition("\n")[2])


def test_what_the_veil_lets_through_is_settled() -> None:
    for text in map("".join, itertools.product("abc", repeat=6)):
        veil = Veil({"one": "abca", "other": "caab"})
        for cut in range(7):
            whole = text[:cut]
            end = veil.settled(whole)
            assert veil.hide(text[:end]) + veil.hide(text[end:]) == veil.hide(text)


# --- through the log of an attempt --------------------------------------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """No handler but the one that keeps: pytest's own keeps every record."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = handlers


@app.task(name="talks.at length", shared=False)
def at_length(megabytes):
    log = logging.getLogger("talks")
    line = "y" * 1_000_000
    for _ in range(megabytes):
        log.warning("%s", line)


def test_an_operation_that_logs_two_hundred_megabytes_takes_a_few() -> None:
    app.set_current()
    order = Order("talks.at length", "[200]", "{}", "t", Current("J", 1, "A", 1), "h", "g", LIMIT, LIMIT)

    with quiet():
        assert grown(lambda: execute(order)) < 5_000_000


@app.task(name="talks.and fails", shared=False)
def and_fails():
    logging.getLogger("talks").warning("said before")
    raise KeyboardInterrupt("z" * 5000)


def test_what_ends_by_a_base_exception_keeps_its_log_and_its_text_is_cut() -> None:
    app.set_current()
    done = execute(Order("talks.and fails", "[]", "{}", "t", Current("J", 1, "A", 1), "h", "g", LIMIT, LIMIT))

    assert "WARNING said before" in done.log
    assert "KeyboardInterrupt: zzz" in done.log
    assert len(done.error) == 2000


def test_the_output_is_as_it_was_when_the_attempt_is_over() -> None:
    app.set_current()
    listen()
    before = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    secret = json.dumps([{}, {"password": "hunter2"}])
    execute(Order("talks.and fails", "[]", secret, "t", Current("J", 1, "A", 1), "h", "g", LIMIT, LIMIT))

    assert (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__) == before
