"""The same no-op operation in a Celery app that batchq has joined."""

from __future__ import annotations

from celery import Celery

from batchq import BatchQ
from benchmarks.bare import noop


def join(**settings: object) -> BatchQ:
    """A new app, for the broker that the environment names now; `settings` are those of batchq."""
    app = Celery("joined")
    app.task(noop, name="noop", shared=False)
    return BatchQ(app, **settings)


batch = join()
