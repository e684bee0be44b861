"""An app whose operation fails by lot: each of its attempts is told apart, so that tests know the lot as well."""

from __future__ import annotations

import logging
import random

from celery import Celery

from batchq import current
from support import ledger_app

ODDS = 1 / 3

logger = logging.getLogger(__name__)


def is_unlucky(run: int, task: str, attempt: int) -> bool:
    """Whether this attempt fails."""
    return random.Random(f"{run} {task} {attempt}").random() < ODDS


def said(run: int, task: str, attempt: int) -> str:
    """What this attempt writes into its log."""
    return f"this is attempt {attempt} of {task} in run {run}"


def luck() -> None:
    """Write it down as the operation of the ledger does, and fail or not."""
    now = current()
    logger.warning(said(now.run, now.task, now.attempt))
    ledger_app.work(fail=is_unlucky(now.run, now.task, now.attempt))


def register(app: Celery) -> Celery:
    """Make the operation a task of this app."""
    app.task(luck, name="ledger.luck", shared=False)
    return app


app = register(Celery("luck", set_as_current=False))
