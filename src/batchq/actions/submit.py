"""Submit: jobs become runs, and the audit says who asked for them (rules 2, 39)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from batchq import engine
from batchq.actions.change import Change, record
from batchq.engine import Opened
from batchq.spec import JobSpec
from batchq.store.database import Database
from batchq.store.transaction import Tx


def submit_jobs(database: Database, jobs: Iterable[JobSpec]) -> list[int]:
    """Store a run of each job and open it, as `engine.submit_all` does, with a line of the audit for each run."""
    return engine.submit_all(database, jobs, _note)


def _note(tx: Tx, opened: Sequence[Opened], now: datetime) -> None:
    record(tx, [Change("run", str(run), after=job, word="submit") for run, job in opened], at=now)
