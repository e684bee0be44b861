"""The log that is kept of an attempt: its end, in bounded memory, whatever is said and however it is cut."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import re
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from celery import Celery
from celery.utils.log import LoggingProxy

from batchq.core.secrets import Veil
from batchq.server.child.executing import execute
from batchq.server.child.log.kept import Kept, log
from batchq.server.child.log.listening import hidden, listen
from batchq.server.child.log.streams import Stream
from batchq.server.child.order import Current, Order

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


# --- what is printed, and by whom it is logged --------------------------------------------------------------


@contextmanager
def heard(veil: Veil | None = None) -> Iterator[Kept]:
    """The log of an attempt that runs here."""
    listen()
    with log(LIMIT, veil, alone=False) as kept, hidden(veil):
        yield kept


def lines(kept: Kept) -> list[str]:
    """Its lines, without their times."""
    return [re.sub(r"^\d{4}-\S+ (?=[A-Z]+ )", "", line) for line in (kept.text() or "").split("\n")]


def test_a_record_stands_on_a_line_of_its_own_and_an_empty_line_is_one() -> None:
    with heard() as kept:
        print("a", end="")
        print("b")
        print()
        print("begun", end="")
        logging.getLogger("talks").warning("logged")
        print("after")
    assert lines(kept) == ["ab", "", "begun", "WARNING logged", "after", ""]


def test_bytes_are_kept_as_text_without_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    with heard(VEIL) as kept:
        assert sys.stdout.buffer.write("ø hunter2 and more\n".encode()) == 20
        sys.stdout.buffer.write(b"\xff\n")
    assert kept.text() == "ø ***\n\ufffd\n"
    assert capfd.readouterr().out.encode("utf-8", "surrogateescape").startswith("ø ***\n".encode())


class Prints(logging.Handler):
    """A handler that prints, as rich's does."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage())


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("talks.to itself")
    yield logger
    logger.handlers.clear()


@pytest.mark.parametrize("redirected", [False, True])
def test_what_a_handler_prints_of_a_record_is_not_kept_again(
    logger: logging.Logger, redirected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if redirected:
        monkeypatch.setattr(sys, "stdout", LoggingProxy(logging.getLogger("celery.redirected"), "WARNING"))
    logger.addHandler(Prints())
    with heard() as kept:
        logger.warning("once")
        print("printed")
    assert lines(kept) == ["WARNING once", "WARNING printed" if redirected else "printed", ""]


class HandsOn(logging.Handler):
    """A handler that gives a record to a logger."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger("talks.elsewhere").handle(record)


def test_a_record_that_a_handler_hands_to_another_logger_is_kept_once(logger: logging.Logger) -> None:
    logger.addHandler(HandsOn())
    with heard() as kept:
        logger.warning("once")
    assert lines(kept) == ["WARNING once", ""]


def test_what_a_filter_of_the_host_takes_out_is_not_kept(logger: logging.Logger) -> None:
    def take_out(record: logging.LogRecord) -> bool:
        record.msg = record.msg.replace("4111", "****")
        return True

    handler = logging.NullHandler()
    handler.handle = lambda record: take_out(record)  # type: ignore[method-assign]
    logger.addHandler(handler)
    with heard() as kept:
        logger.warning("card 4111")
    assert lines(kept) == ["WARNING card ****", ""]


class ToLogger:
    """A stream that a host puts in the place of stdout, and that logs."""

    def write(self, text: str) -> int:
        for line in text.rstrip().splitlines():
            logging.getLogger("talks").warning("%s", line)
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""


def test_a_print_that_a_stream_of_the_hosts_logs_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", ToLogger())
    with heard() as kept:
        print("once")
        print("twice")
    assert lines(kept) == ["WARNING once", "WARNING twice", ""]


def test_what_another_attempt_prints_between_two_parts_of_a_secret_is_in_its_own_log() -> None:
    with heard(VEIL) as kept:
        print("of the first: hunter2 an", end="")
        thread = threading.Thread(target=of_another)
        thread.start()
        thread.join()
        print("d more")
    assert kept.text() == "of the first: ***\n"
    assert OTHER == ["of another\n"]


OTHER: list[str | None] = []


def of_another() -> None:
    with heard() as kept:
        print("of another")
    OTHER.append(kept.text())


def test_a_stream_can_be_copied_and_has_what_the_one_below_has() -> None:
    listen()
    assert isinstance(sys.stdout, Stream)
    assert sys.stdout.encoding == sys.stdout.inner.encoding
    assert copy.copy(sys.stdout).inner is sys.stdout.inner
    with pytest.raises(TypeError):
        sys.stdout.write(b"bytes")  # type: ignore[arg-type]
