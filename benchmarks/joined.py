"""The same no-op operation in a Celery app that batchq has joined."""

from __future__ import annotations

from celery import Celery

from batchq import BatchQ
from benchmarks.bare import noop


def join() -> BatchQ:
    """A new app, for the broker and the database that the environment names now."""
    app = Celery("joined")
    app.task(noop, name="noop", shared=False)
    return BatchQ(app)


batch = join()
