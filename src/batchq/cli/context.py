"""The Celery app that a command works on, and that app's database."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchq.cli.output import now_in, say
from batchq.cli.program import APP
from batchq.errors import BrokerUnreachable, DatabaseOutdated, NoBroker

# Imported where they are used: else each `--help` would wait for Celery, SQL and pydantic.
if TYPE_CHECKING:
    from celery import Celery

    from batchq.app import BatchQ
    from batchq.store.database import Database

JOINED = "batchq.joined"
TIMED_OUT = 124
# An engine writes less than this into its lock file.
LOCK_BYTES = 65536


def batch() -> BatchQ:
    """The BatchQ of the app at `--app`, of `celery -A …`, of BATCHQ_APP, or else the demo app."""
    meta = click.get_current_context().meta
    if JOINED not in meta:
        meta[JOINED] = _join(meta.get(APP))
        meta[JOINED].process = click.get_current_context().command_path
        meta[JOINED].announce = _say_where
        click.get_current_context().find_root().call_on_close(lambda: _close(meta[JOINED]))
    joined: BatchQ = meta[JOINED]
    return joined


def _close(joined: BatchQ) -> None:
    if "database" in vars(joined):  # to read the property would make a database that nobody used
        joined.database.dispose()


def _say_where() -> None:
    """Say in one line which app and database these are, if nobody named an app; never beside JSON."""
    if _is_named() or click.get_current_context().params.get("output") == "json":
        return
    joined = batch()
    from batchq.config import masked

    which = "the demo app" if _of_celery() is None else f"Celery's app {joined.app.main or 'default'!r}"
    place = f"{which}, with the database {masked(joined.settings.database)}"
    say(f"No app is named: this is {place}. -A MODULE:APP or BATCHQ_APP names one.", err=True)


def _is_named() -> bool:
    meta = click.get_current_context().meta
    return bool(meta.get(APP) or os.environ.get("BATCHQ_APP") or _is_handed_over())


def path_of_app() -> str | None:
    """The app as a child process is to name it: the text behind `-A`, here or of `celery -A`; None without one."""
    ctx = click.get_current_context()
    of_celery = ctx.find_root().params.get("app")
    return ctx.meta.get(APP) or (of_celery if isinstance(of_celery, str) else None)


def _of_celery() -> Celery | None:
    """The app of Celery's own command; if nobody named it there, BATCHQ_APP comes first."""
    app = getattr(click.get_current_context().obj, "app", None)
    return app if _is_handed_over() or not os.environ.get("BATCHQ_APP") else None


def _is_handed_over() -> bool:
    """Whether `celery -A …` named the app."""
    ctx = click.get_current_context()
    return getattr(ctx.obj, "app", None) is not None and bool(ctx.find_root().params.get("app", True))


def _join(path: str | None) -> BatchQ:
    from batchq.app import BatchQ, find_app

    of_celery = _of_celery()
    joined = BatchQ(of_celery) if path is None and of_celery is not None else find_app(path)
    if not joined.names_broker:
        _find_broker(joined.settings.home)
    return joined


def _find_broker(home: Path) -> None:
    """Take the broker of the engine that another command runs in this folder, if one does."""
    try:
        with (home / "lock").open("rb") as lock:
            facts = json.loads(lock.read(LOCK_BYTES))
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        if isinstance(facts, dict) and isinstance(broker := facts.get("broker"), str):
            os.environ["CELERY_BROKER_URL"] = broker
    except (OSError, ValueError):
        return


def database() -> Database:
    """The app's database, with a schema that is up to date.

    Raises DatabaseOutdated for a database that somebody named; our own file is upgraded without a word.
    """
    from batchq.store import schema

    joined = batch()
    try:
        schema.check(joined.database)
    except DatabaseOutdated:
        if joined.settings.database_url is not None:
            raise
        schema.upgrade(joined.database)
    return joined.database


def names_app() -> bool:
    """Whether somebody named an app; if not, the demo app may be the wrong one."""
    ctx = click.get_current_context()
    return bool(ctx.meta.get(APP) or os.environ.get("BATCHQ_APP") or getattr(ctx.obj, "app", None))


def timezone() -> str | None:
    """The zone in the user's settings, if there is one."""
    return batch().settings.timezone


def aging() -> float:
    """The seconds in which a task that waits rises by a class (rule 28)."""
    return batch().settings.priority_aging_seconds


def users_now() -> datetime:
    """The present time on the user's clock."""
    return now_in(timezone())


def forward() -> None:
    """Hand out the tasks that a change has freed; without a broker a coordinator's tick does it later."""
    if not batch().settings.fast_path:
        return
    with suppress(BrokerUnreachable, NoBroker):
        batch().check_broker()
        batch().forward()
