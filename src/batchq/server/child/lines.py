"""The server's own log of attempts: a line for the start, and one for the end, with their facts beside the text.

A child writes the lines of the operations that it runs; the parent writes the ends that no child can tell. Both use
Celery's own loggers, so that the set-up of a host, or of an error tracker, holds here too. No line has arguments or
results in it.
"""

from __future__ import annotations

import logging
from types import TracebackType

from batchq.server.child import exceptions
from batchq.server.child.log.records import say_aside
from batchq.server.child.order import Order
from batchq.store.moves import Start

TEXT_CHARS = 2000
TRACE_CHARS = 65536
STARTED = "%s / %s started: run %d, attempt %d, %s"
SUCCEEDED = "%s / %s succeeded in %.3f s: run %d, attempt %d, %s"
FAILED = "%s / %s failed after %.3f s: run %d, attempt %d, %s: %s"
FAILED_ONCE = "%s / %s failed after %.3f s, and is tried again: run %d, attempt %d, %s: %s"
ENDED = "%s / %s ended%s: run %d, attempt %d, %s: %s"

# Error trackers ignore this logger: Celery itself tells them of failures.
_child = logging.getLogger("celery.app.trace")
_parent = logging.getLogger("celery.worker.request")


def started(order: Order) -> None:
    """Say that the operation is about to run."""
    if _child.isEnabledFor(logging.INFO):
        now = order.current
        said = STARTED, now.job, now.task, now.run, now.attempt, order.operation
        _say(_child, logging.INFO, said, _facts(order))


def succeeded(order: Order, seconds: float) -> None:
    """Say that the operation came back after this many seconds."""
    if _child.isEnabledFor(logging.INFO):
        now = order.current
        said = SUCCEEDED, now.job, now.task, seconds, now.run, now.attempt, order.operation
        _say(_child, logging.INFO, said, _facts(order) | _end("success", seconds))


def failed(
    order: Order, seconds: float, error: BaseException, trace: str | None = None, *, again: bool = False
) -> None:
    """Say that the operation failed after this many seconds, with its traceback; `again` if a further attempt follows.

    `trace` is the error as `exceptions.told` gives it, if the caller has it already.
    """
    level = logging.WARNING if again else logging.ERROR
    if not _child.isEnabledFor(level):
        return
    now, text = order.current, exceptions.in_a_line(error)[:TEXT_CHARS]
    sentence = FAILED_ONCE if again else FAILED
    said = sentence, now.job, now.task, seconds, now.run, now.attempt, order.operation, text
    facts = _facts(order) | _end("error", seconds) | _failure(text, again)
    trace = exceptions.told(error) if trace is None else trace
    _say(_child, level, said, facts, error, trace[-TRACE_CHARS:].rstrip("\n"))


def not_found(order: Order, error: str) -> None:
    """Say that no such operation is registered."""
    if _child.isEnabledFor(logging.ERROR):
        now = order.current
        said = FAILED, now.job, now.task, 0.0, now.run, now.attempt, order.operation, error
        _say(_child, logging.ERROR, said, _facts(order) | _end("error", 0.0) | {"error": error, "again": False})


def ended(
    row: Start, run: int, hostname: str, error: str, seconds: float | None = None, *, again: bool = False
) -> None:
    """Say how the attempt of this row ended, where no child can: it was lost, timed out, or never started.

    `seconds` is None if it had not begun; `again` if a further attempt follows.
    """
    level = logging.WARNING if again else logging.ERROR
    if _parent.isEnabledFor(level):
        after = "" if seconds is None else f" after {seconds:.3f} s"
        facts = _facts_of(row, run, hostname) | _end("error", seconds) | _failure(error, again)
        _say(_parent, level, _end_of(row, run, error, after), facts)


def broke_off(row: Start, run: int, hostname: str, reason: str, error: BaseException) -> None:
    """Say that batchq's own error ended the attempt of this row, with the error's traceback."""
    if _parent.isEnabledFor(logging.ERROR):
        facts = _facts_of(row, run, hostname) | _end("error", None) | _failure(reason)
        _say(_parent, logging.ERROR, _end_of(row, run, reason, ""), facts, error)


def _end_of(row: Start, run: int, error: str, after: str) -> tuple[str, *tuple[object, ...]]:
    return ENDED, row.job, row.name, after, run, row.attempt, row.operation, error[:TEXT_CHARS]


def _facts_of(row: Start, run: int, hostname: str) -> dict[str, object]:
    return {
        "job": row.job,
        "run": run,
        "task": row.name,
        "attempt": row.attempt,
        "operation": row.operation,
        "group": row.group_name,
        "hostname": hostname,
        "task_id": row.token,
        "task_name": row.operation,
    }


def _facts(order: Order) -> dict[str, object]:
    now = order.current
    return {
        "job": now.job,
        "run": now.run,
        "task": now.task,
        "attempt": now.attempt,
        "operation": order.operation,
        "group": order.group,
        "hostname": order.hostname,
        # Celery's own names too: formatters made for Celery look for them.
        "task_id": order.token,
        "task_name": order.operation,
    }


def _end(outcome: str, seconds: float | None) -> dict[str, object]:
    return {"outcome": outcome, "duration": None if seconds is None else round(seconds, 6)}


def _failure(error: str, again: bool = False) -> dict[str, object]:
    return {"error": error[:TEXT_CHARS], "again": again}


def _say(
    logger: logging.Logger,
    level: int,
    said: tuple[str, *tuple[object, ...]],
    facts: dict[str, object],
    error: BaseException | None = None,
    trace: str | None = None,
) -> None:
    text, args = said[0], said[1:]
    record = logger.makeRecord(logger.name, level, __file__, 0, text, args, _for_others(error), "attempt")
    # Not by `extra`: it refuses a name that the host's record factory has used.
    vars(record).update(facts)
    record.exc_text = trace
    say_aside(logger, record)


def _for_others(
    error: BaseException | None,
) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
    """The exception, for handlers that format it themselves; None if formatting it takes seconds, or raises."""
    try:
        if error is not None and exceptions.is_tellable(error):
            return type(error), error, error.__traceback__
    except BaseException:
        return None
    return None
