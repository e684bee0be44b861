"""What becomes of `layers` in Celery's canvas when it is written all at once."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import click

from benchmarks import site
from benchmarks.sides import Canvas
from benchmarks.workloads import layers_of

TASKS = 1000
SHAPES = {"flattened": "groups with an empty task between two", "groups": "a chain of groups, as in the manual"}


def try_canvases(threads: int, seconds: float) -> dict[str, Any]:
    """How far 20 layers of 50 come within that time, on a worker of their own; what may not end is the last."""
    with ExitStack() as stack:
        folder = stack.enter_context(site.folder("batchq-bench-"))
        stack.enter_context(site.broker(folder))
        side = Canvas(folder)
        for part, argv in side.commands(threads):
            stack.enter_context(site.process(f"canvas-{part}", argv, folder))
        return {shape: _try(shape, side, seconds) for shape in SHAPES}


def _try(shape: str, side: Canvas, seconds: float) -> dict[str, Any]:
    from benchmarks import canvas  # its result backend is beside the broker, which is known only now

    write = {"flattened": canvas.flattened, "groups": canvas.groups}[shape]
    side.stamps.clear()
    start = time.monotonic()
    result = write(str(side.stamps.path), layers_of(TASKS)).apply_async()
    done: list[str] = []
    while len(set(done)) < TASKS and time.monotonic() < start + seconds:
        time.sleep(site.POLL_SECONDS)
        done = [mark for mark, _ in side.stamps.read()]
    took = time.monotonic() - start
    result.forget()
    click.echo(f"canvas, {shape}: {len(done)} starts of {len(set(done))} tasks, {took:.1f} s", err=True)
    return {"ended": len(set(done)) == TASKS, "seconds": took, "starts": len(done), "tasks": len(set(done))}
