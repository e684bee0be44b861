"""How a batch server stops: warm, and its tasks may end; or cold, and it waits for nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from celery.worker import state

from batchq.server.celery_types.loop import Hub

logger = logging.getLogger(__name__)


def begun() -> bool:
    """Whether the worker was told to stop, warm or cold."""
    return _set(state.should_stop) or cold()


def cold() -> bool:
    """Whether somebody has told the worker to stop without waiting for its tasks."""
    return _set(state.should_terminate)


def exit_code() -> int:
    """The exit code of a cold stop: 1, unless its cause set another."""
    code = state.should_terminate
    return code if isinstance(code, int) and not isinstance(code, bool) and code else 1


def _set(flag: object) -> bool:
    """Celery keeps an exit code here, which may be 0."""
    return flag is not None and flag is not False


def turn(hub: Hub, done: Callable[[], bool], seconds: float | None) -> None:
    """Turn the worker's loop, which nobody else turns any more, until `done` or the time is up."""
    deadline = None if seconds is None else time.monotonic() + seconds
    loop = hub.create_loop()
    while not done() and (deadline is None or time.monotonic() < deadline):
        try:
            next(loop)
        except StopIteration:
            loop = hub.create_loop()
        except Exception:
            logger.debug("the loop of a stopping server", exc_info=True)
            loop = hub.create_loop()
