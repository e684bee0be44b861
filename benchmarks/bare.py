"""The no-op operation, and the bare Celery app that batchq is compared with."""

from __future__ import annotations

import os
import time

from celery import Celery

QUEUE = "bare"

app = Celery("bare")
app.conf.update(task_default_queue=QUEUE, task_ignore_result=True)


def noop(stamps: str, mark: str) -> None:
    """Do nothing but append a line to the file `stamps`: begin, end (ns of CLOCK_MONOTONIC), mark."""
    begun = time.monotonic_ns()
    file = os.open(stamps, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, f"{begun} {time.monotonic_ns()} {mark}\n".encode())
    finally:
        os.close(file)


def link(stamps: str, number: int, length: int) -> None:
    """A no-op that sends the next one of a chain by hand, until it is `length` long."""
    noop(stamps, f"t{number}")
    if number + 1 < length:
        chain.apply_async((stamps, number + 1, length))


single = app.task(noop, name="noop", shared=False)
chain = app.task(link, name="link", shared=False)
