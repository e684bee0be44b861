"""How a batch server hears that it is to stop: warm, and what runs may end; or cold, and it waits for nothing."""

from __future__ import annotations

from typing import Any

from celery.apps import worker as signals
from celery.worker import state


def begun() -> bool:
    """Whether a stop has been asked for, of whatever kind."""
    return _set(state.should_stop) or cold()


def cold() -> bool:
    """Whether a stop has been asked for that does not wait for what runs."""
    return _set(state.should_terminate)


def exit_code() -> int:
    """The exit code of a cold stop: 1, unless its cause set another."""
    code = state.should_terminate
    return code if isinstance(code, int) and not isinstance(code, bool) and code else 1


def _set(flag: Any) -> bool:
    """Celery keeps an exit code here, which may be 0."""
    return flag is not None and flag is not False


def heed(worker: Any) -> None:
    """Install Celery's signal handlers, but let a cold stop only be noted.

    Celery's own cancels consumers and ends children inside of the handler, and waits there for broker and pool.
    """
    if not isinstance(worker, signals.Worker):
        return  # it lives inside another program, whose signals these are
    signals.install_worker_int_handler(worker, callback=_first_interrupt)
    signals.install_worker_term_hard_handler(worker, callback=_noted)
    if signals.REMAP_SIGTERM == "SIGQUIT":
        signals.install_worker_term_handler(worker, callback=_noted)


def _first_interrupt(worker: Any) -> None:
    signals.safe_say("worker: Hitting Ctrl+C again will end all running tasks!", signals.sys.__stdout__)
    signals.install_worker_term_hard_handler(worker, sig="SIGINT", callback=_noted, verbose=False)


def _noted(worker: Any) -> None:
    """Do nothing: the loop, which stands still during a handler, does the rest."""
