"""The server's own lines about attempts: their levels, their facts, and none where nobody wants them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from batchq.server.child import lines
from batchq.server.child.log import kept
from batchq.server.child.log.listening import listen
from batchq.server.child.order import Current, Order
from batchq.server.logs import Json

ORDER = Order("shop.post", "[]", "{}", "5f0c", Current("J 100%", 7, "A", 2), "AOS1@h", "BG1", 9999, 9999)
FACTS = {"job": "J 100%", "run": 7, "task": "A", "attempt": 2, "operation": "shop.post", "group": "BG1"}
FACTS |= {"hostname": "AOS1@h", "task_id": "5f0c", "task_name": "shop.post"}
ROW = SimpleNamespace(job="J 100%", name="A", attempt=2, operation="shop.post", group_name="BG1", token="5f0c")


class Told(logging.Handler):
    """Keeps the records that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def told() -> Iterator[Told]:
    handler, logger = Told(), logging.getLogger("celery")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def error() -> ValueError:
    try:
        raise ValueError("no such order")
    except ValueError as error:
        return error


def facts(record: logging.LogRecord) -> dict[str, object]:
    pythons = {*vars(logging.makeLogRecord({})), "message", "asctime"}
    return {name: value for name, value in vars(record).items() if name not in pythons}


def test_each_end_has_its_level_its_text_and_its_facts(told: Told) -> None:
    lines.started(ORDER)
    lines.succeeded(ORDER, 1.23456789)
    lines.failed(ORDER, 1.0, error())
    lines.failed(ORDER, 1.0, error(), again=True)
    lines.not_found(ORDER, "nothing to run")
    lines.ended(ROW, 7, "AOS1@h", "timed out", 2.0)
    lines.ended(ROW, 7, "AOS1@h", "not started", again=True)

    what = "run 7, attempt 2, shop.post"
    assert [(record.levelname, record.getMessage()) for record in told.records] == [
        ("INFO", f"J 100% / A started: {what}"),
        ("INFO", f"J 100% / A succeeded in 1.235 s: {what}"),
        ("ERROR", f"J 100% / A failed after 1.000 s: {what}: ValueError: no such order"),
        ("WARNING", f"J 100% / A failed after 1.000 s, and is tried again: {what}: ValueError: no such order"),
        ("ERROR", f"J 100% / A failed after 0.000 s: {what}: nothing to run"),
        ("ERROR", f"J 100% / A ended after 2.000 s: {what}: timed out"),
        ("WARNING", f"J 100% / A ended: {what}: not started"),
    ]
    assert [record.name for record in told.records] == ["celery.app.trace"] * 5 + ["celery.worker.request"] * 2
    assert facts(told.records[0]) == FACTS
    assert facts(told.records[1]) == FACTS | {"outcome": "success", "duration": 1.234568}
    failed = FACTS | {"outcome": "error", "duration": 1.0, "error": "ValueError: no such order"}
    assert facts(told.records[2]) == failed | {"again": False}
    assert facts(told.records[3]) == failed | {"again": True}
    assert facts(told.records[6]) == FACTS | {
        "outcome": "error", "duration": None, "error": "not started", "again": True,
    }  # fmt: skip
    for record in told.records[2:4]:
        assert "ValueError: no such order" in logging.Formatter().format(record)
        assert record.exc_info is not None
        assert record.exc_info[0] is ValueError


def test_where_the_level_is_off_no_record_is_made(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("celery").setLevel(logging.CRITICAL)
    made: list[object] = []
    monkeypatch.setattr(lines, "_say", lambda *said: made.append(said))
    lines.started(ORDER)
    lines.succeeded(ORDER, 1.0)
    lines.failed(ORDER, 1.0, error())
    lines.not_found(ORDER, "nothing")
    lines.ended(ROW, 7, "h", "lost")
    assert made == []


def test_a_factory_of_the_hosts_that_uses_the_same_names_does_no_harm(told: Told) -> None:
    before = logging.getLogRecordFactory()

    def make(*args: object, **named: object) -> logging.LogRecord:
        record = before(*args, **named)
        record.job = record.task = "the host's"
        return record

    logging.setLogRecordFactory(make)
    try:
        lines.started(ORDER)
    finally:
        logging.setLogRecordFactory(before)
    assert facts(told.records[0]) == FACTS


def test_a_line_is_none_of_an_attempts_log(told: Told) -> None:
    listen()
    with kept.log(9999, None, alone=False) as log:
        lines.started(ORDER)
        lines.failed(ORDER, 1.0, error())
        assert log.text() is None
        logging.getLogger("celery.app.trace").warning("said by Celery")
    assert "said by Celery" in (log.text() or "")


def chain(length: int) -> BaseException:
    """An error with so many causes."""
    one: BaseException = ValueError("the first")
    for _ in range(length):
        later = ValueError("one of many")
        later.__cause__, one = one, later
    return one


class Liar(Exception):
    """An error whose class cannot be asked for."""

    @property
    def __class__(self) -> type:
        raise KeyError("no")

    def __str__(self) -> str:
        raise KeyError("no")


@pytest.mark.parametrize("make", [lambda: chain(100_000), Liar], ids=["a chain of causes", "a liar"])
def test_an_error_that_takes_long_to_tell_or_raises_has_its_line(told: Told, make: Callable[[], BaseException]) -> None:
    lines.failed(ORDER, 1.0, make())
    assert told.records[0].exc_info is None
    text = logging.Formatter().format(told.records[0])
    assert "Traceback, without what led to it" in text
    assert len(Json().format(told.records[0])) < 10_000


def test_what_is_logged_of_a_huge_error_is_bounded(told: Told) -> None:
    lines.failed(ORDER, 1.0, ValueError("x" * 10_000_000))
    assert len(logging.Formatter().format(told.records[0])) < 100_000
