"""The comparison by the number of threads: each side on both databases, and the engine alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks import site
from benchmarks.commit import in_a_process
from benchmarks.compare import compare, up
from benchmarks.sides import Bare, Batchq, Canvas, Side
from benchmarks.targets import judged

USUAL = ("wide", "layers", "job1", "chain")
WIDTHS = (1, 2, 4, 8, 16)
# The only workload in which the sides without events take part.
WITH_QUIET = "wide"


def widths(
    folder: Path, workloads: Sequence[str], threads: Sequence[int], tasks: int, pairs: int, timeout: float
) -> dict[str, Any]:
    """The figures of each workload by the number of threads; all sides of a width take turns on one broker."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        valkey = stack.enter_context(site.broker(folder))
        server = stack.enter_context(site.postgres())
        for width in threads:
            place = folder / f"{width}"
            place.mkdir()
            began = time.monotonic()
            found[str(width)] = _width(place, valkey, server, workloads, width, tasks, pairs, timeout)
            found[str(width)]["seconds"] = time.monotonic() - began
            click.echo(f"{width} threads: {found[str(width)]['seconds']:.0f} s", err=True)
    return found


def _width(
    folder: Path,
    valkey: psutil.Process,
    server: site.Store,
    workloads: Sequence[str],
    width: int,
    tasks: int,
    pairs: int,
    timeout: float,
) -> dict[str, Any]:
    began = time.monotonic()
    with up(folder, valkey, lambda at, threads: _sides(at, threads, server), width) as sides:
        started = time.monotonic() - began
        quiet = [side for side in sides if side.name.endswith("-quiet")]
        loud = [side for side in sides if side not in quiet]
        found = {
            name: compare(name, sides, tasks, pairs, timeout)
            if name == WITH_QUIET
            else compare(name, loud, tasks, pairs, timeout, resting=quiet)
            for name in workloads
        }
    for side in sides:
        if isinstance(side, Batchq):
            side.batch.database.dispose()
    return {"workloads": found, "start_seconds": started}


def _sides(folder: Path, threads: int, server: site.Store) -> list[Side]:
    """All sides; each of batchq's has a database of its own."""
    sides: list[Side] = [Bare(folder), Canvas(folder)]
    for suffix, events in (("", True), ("-quiet", False)):
        file = site.Store(f"sqlite:///{folder}/books{suffix}.db")
        table = site.beside(server, f"books{suffix}-{threads}")
        sides.append(Batchq(folder, threads, file, f"sqlite{suffix}", events=events))
        sides.append(Batchq(folder, threads, table, f"postgresql{suffix}", events=events))
    return sides


def alone() -> dict[str, Any]:
    """A commit of the engine alone, by database, each in a process of its own."""
    return {"sqlite": in_a_process(False), "postgresql": in_a_process(True)}


def verdicts(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets and whether they are met, for the report's JSON."""
    return [verdict._asdict() for verdict in judged(report)]
