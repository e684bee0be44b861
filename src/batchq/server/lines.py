"""The server's own log of attempts: a line for the start, and one for the end, with their facts beside the text.

The child writes them, where the operation runs; the parent writes the ends that no child can tell. Both use the
loggers that Celery uses for the same, so that what a host or a tracker of errors has set up for those holds here.
No line has arguments or results in it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from batchq.server import kept

if TYPE_CHECKING:
    from batchq.server.child import Order

TEXT_CHARS = 2000
TRACE_CHARS = 65536
STARTED = "%s / %s started: run %d, attempt %d, %s"
SUCCEEDED = "%s / %s succeeded in %.3f s: run %d, attempt %d, %s"
FAILED = "%s / %s failed after %.3f s: run %d, attempt %d, %s: %s"
FAILED_ONCE = "%s / %s failed after %.3f s, and is tried again: run %d, attempt %d, %s: %s"
ENDED = "%s / %s ended%s: run %d, attempt %d, %s: %s"

# Error trackers ignore this logger, since they hear of failures from Celery itself.
_child = logging.getLogger("celery.app.trace")
_parent = logging.getLogger("celery.worker.request")


def started(order: Order) -> None:
    """Say that the operation is about to run."""
    if _child.isEnabledFor(logging.INFO):
        now = order.current
        said = now.job, now.task, now.run, now.attempt, order.operation
        _say(_child, logging.INFO, STARTED, said, _facts(order))


def succeeded(order: Order, seconds: float) -> None:
    """Say that the operation came back after so long."""
    if _child.isEnabledFor(logging.INFO):
        now = order.current
        said = now.job, now.task, seconds, now.run, now.attempt, order.operation
        _say(_child, logging.INFO, SUCCEEDED, said, _facts(order) | _end("success", seconds))


def failed(
    order: Order, seconds: float, error: BaseException, trace: str | None = None, *, again: bool = False
) -> None:
    """Say that the operation failed after so long, with its traceback; `again` if a further attempt follows.

    `trace` is what `kept.told` makes of the error, where it is known already.
    """
    level = logging.WARNING if again else logging.ERROR
    if not _child.isEnabledFor(level):
        return
    now, text = order.current, kept.in_a_line(error)[:TEXT_CHARS]
    said = now.job, now.task, seconds, now.run, now.attempt, order.operation, text
    facts = _facts(order) | _end("error", seconds) | {"error": text, "again": again}
    trace = kept.told(error) if trace is None else trace
    _say(_child, level, FAILED_ONCE if again else FAILED, said, facts, error, trace[-TRACE_CHARS:].rstrip("\n"))


def not_found(order: Order, error: str) -> None:
    """Say that there was nothing to run."""
    if _child.isEnabledFor(logging.ERROR):
        now = order.current
        said = now.job, now.task, 0.0, now.run, now.attempt, order.operation, error
        _say(_child, logging.ERROR, FAILED, said, _facts(order) | _end("error", 0.0) | {"error": error, "again": False})


def ended(
    row: Any,
    run: int,
    hostname: str,
    error: str,
    seconds: float | None = None,
    *,
    cause: BaseException | None = None,
    again: bool = False,
) -> None:
    """Say what no child can tell: how the attempt of this row ended, and after how long, if it had begun.

    `cause` is an error of ours that is told with its traceback.
    """
    level = logging.WARNING if again else logging.ERROR
    if not _parent.isEnabledFor(level):
        return
    facts = {"job": row.job, "run": run, "task": row.name, "attempt": row.attempt, "operation": row.operation}
    facts |= {"group": row.group_name, "hostname": hostname, "task_id": row.token, "task_name": row.operation}
    facts |= _end("error", seconds) | {"error": error[:TEXT_CHARS], "again": again}
    after = "" if seconds is None else f" after {seconds:.3f} s"
    said = row.job, row.name, after, run, row.attempt, row.operation, error[:TEXT_CHARS]
    _say(_parent, level, ENDED, said, facts, cause)


def _facts(order: Order) -> dict[str, Any]:
    now = order.current
    return {
        "job": now.job,
        "run": now.run,
        "task": now.task,
        "attempt": now.attempt,
        "operation": order.operation,
        "group": order.group,
        "hostname": order.hostname,
        # By Celery's own names too, for formatters that know those.
        "task_id": order.token,
        "task_name": order.operation,
    }


def _end(outcome: str, seconds: float | None) -> dict[str, Any]:
    return {"outcome": outcome, "duration": None if seconds is None else round(seconds, 6)}


def _say(
    logger: logging.Logger,
    level: int,
    text: str,
    said: tuple[Any, ...],
    facts: dict[str, Any],
    error: BaseException | None = None,
    trace: str | None = None,
) -> None:
    record = logger.makeRecord(logger.name, level, __file__, 0, text, said, _for_others(error), "attempt")
    # Not by `extra`, which refuses a name that the host's factory of records has used.
    vars(record).update(facts)
    record.exc_text = trace
    kept.say_aside(logger, record)


def _for_others(error: BaseException | None) -> Any:
    """The exception, for handlers that format it themselves; None if that takes seconds, or raises."""
    try:
        if error is not None and kept.is_tellable(error):
            return type(error), error, error.__traceback__
    except BaseException:
        return None
    return None
