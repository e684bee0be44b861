"""The same no-op operation in a Celery app that batchq has joined."""

from __future__ import annotations

from celery import Celery

from batchq import BatchQ
from benchmarks.bare import noop

app = Celery("joined")
batch = BatchQ(app)
app.task(noop, name="noop", shared=False)
