"""The app of the end-to-end tests: one operation, which writes down that it ran: where, when, in which attempt.

Each line is one write to a file opened for appending, so lines of many processes never mix. Times are
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, current_task

from batchq import crash, current

LEDGER = "TEST_LEDGER"
GATES = "TEST_GATES"
EVERY_GATE = "every"
MOST_SECONDS = 120.0

logger = logging.getLogger(__name__)


def work(
    seconds: float = 0,
    fail: bool = False,
    gate: str | None = None,
    result: Any = None,
    log: int = 0,
    deaf: bool = False,
) -> Any:
    """Take `seconds`, and on until the `gate` is open if there is one; then fail, or return `result`.

    `log` is how many characters it logs; who is `deaf` does not heed SIGTERM.
    """
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    began = time.monotonic()
    ok = False
    _write("start", began)
    crash.point("operation")
    try:
        time.sleep(seconds)
        while gate and not _open(gate):
            if time.monotonic() - began > MOST_SECONDS:
                raise TimeoutError(f"nobody opened the gate {gate}")
            time.sleep(0.01)
        if log:
            logger.warning("%s", "-" * log)
        if fail:
            raise RuntimeError(f"{current().task} was told to fail")
        ok = True
        return result
    finally:
        _write("end", time.monotonic(), ok=ok)


def _open(gate: str) -> bool:
    return any((Path(os.environ[GATES]) / name).exists() for name in (gate, EVERY_GATE))


def _write(event: str, at: float, **more: bool) -> None:
    now = current()
    server = current_task.request.hostname.partition("@")[0]
    facts = {"run": now.run, "task": now.task, "attempt": now.attempt, "server": server, "pid": os.getpid()}
    line = json.dumps({"event": event, "at": at, **facts, **more}) + "\n"
    file = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def register(app: Celery) -> Celery:
    """Make the operation a task of this app."""
    app.task(work, name="ledger.work", shared=False)
    return app


app = register(Celery("ledger", set_as_current=False))
