"""The same work in Celery's own canvas, in an app with the Redis result backend that chords need."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from celery import Celery, chain, chord, group
from celery.canvas import Signature

from benchmarks.bare import noop

QUEUE = "canvas"

# A chord counts its header in the result backend: here another database of the broker's own Valkey.
app = Celery("canvas", backend=re.sub("/0$", "/1", os.environ.get("CELERY_BROKER_URL", "")))
app.conf.update(task_default_queue=QUEUE)

single = app.task(noop, name="noop", shared=False, ignore_result=True)
# The tasks of a chord's header must not ignore their results.
counted = app.task(noop, name="counted", shared=False)


def wide(stamps: str, marks: Sequence[str]) -> Signature:
    """A group, and a task that waits for all of it."""
    *header, last = marks
    return chord([counted.si(stamps, mark) for mark in header], single.si(stamps, last))


def in_a_row(stamps: str, marks: Sequence[str]) -> Signature:
    """One after the other."""
    return chain(*(single.si(stamps, mark) for mark in marks))


def job1(stamps: str, run: int) -> Signature:
    """JOB 1: TASK 2 follows TASK 1 however that ends, and errors have their branches."""

    def task(number: int) -> Signature:
        return single.si(stamps, f"{run}/TASK {number}")

    def part(number: int) -> Signature:
        return counted.si(stamps, f"{run}/TASK {number}")

    both = chord([part(3).on_error(task(6)), part(4)], task(7))
    second = task(2).on_error(task(5))
    return chain(task(1).on_error(chain(second, both)), second, both)


def layer(stamps: str, number: int, width: int, layers: int) -> Signature:
    """One layer of several, whose last act is to send the next; a canvas of all at once does not work (see below)."""
    header = [counted.si(stamps, f"{number}.{n}") for n in range(width)]
    last = number + 1 == layers
    return group(header) if last else chord(header, next_layer.si(stamps, number + 1, width, layers))


@app.task(name="next_layer", shared=False, ignore_result=True)
def next_layer(stamps: str, number: int, width: int, layers: int) -> None:
    """Send the next layer."""
    layer(stamps, number, width, layers).apply_async()


def groups(stamps: str, layers: Sequence[Sequence[str]]) -> Signature:
    """Layers as the manual has them, a chain of groups: Celery 5.7 runs tasks of it twice, and never ends."""
    return chain(*(group([counted.si(stamps, mark) for mark in layer]) for layer in layers))


def flattened(stamps: str, layers: Sequence[Sequence[str]]) -> Signature:
    """The same with an empty task between two groups: it ends, but every message carries all layers that follow."""
    first, *rest = [group([counted.si(stamps, mark) for mark in layer]) for layer in layers]
    return chain(first, *(step for layer in rest for step in (nothing.si(), layer)))


@app.task(name="nothing", shared=False, ignore_result=True)
def nothing() -> None:
    """Stands between two groups."""
