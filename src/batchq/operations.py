"""Operations that ship with batchq: a small demo set, and `shell.run` for those who switch it on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess

from celery import Celery

from batchq import clock
from batchq.server.child.order import current

logger = logging.getLogger(__name__)


def work(seconds: float = 0, fail: bool = False, message: str | None = None) -> None:
    """Sleep for `seconds`, log `message`, and fail if told to."""
    clock.sleep(seconds)
    if message is not None:
        logger.info("%s", message)
    if fail:
        raise RuntimeError(message or "told to fail")


def flaky(failures: int = 1) -> int:
    """Fail the first `failures` attempts; returns the number of the one that succeeded."""
    attempt = current().attempt
    if attempt <= failures:
        raise RuntimeError(f"attempt {attempt} of {failures} that fail")
    return attempt


def crash() -> None:
    """Kill the process that runs this, with SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def echo(value: object = None) -> object:
    """Return `value`."""
    return value


def shell(argv: list[str]) -> int:
    """Run a program with its arguments, no shell in between; its output goes to the attempt's log.

    Raises RuntimeError when it ends with another status than 0.
    """
    if not (isinstance(argv, list) and argv and all(isinstance(word, str) for word in argv)):
        raise TypeError('shell.run takes the program and its arguments as a list of strings: argv: ["ls", "-l"]')
    ended = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    for line in (ended.stdout + ended.stderr).splitlines():
        logger.info("%s", line)
    if ended.returncode:
        raise RuntimeError(f"{argv[0]} ended with status {ended.returncode}")
    return 0


DEMO = {"demo.work": work, "demo.flaky": flaky, "demo.crash": crash, "demo.echo": echo}


def register(app: Celery, *, shell_allowed: bool, demo: bool) -> None:
    """Make the shipped operations tasks of the app: the demo set for our own app only, the shell only if allowed."""
    for name, operation in (DEMO if demo else {}).items():
        app.task(operation, name=name, shared=False)
    if shell_allowed:
        app.task(shell, name="shell.run", shared=False)
