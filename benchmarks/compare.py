"""The comparison: all sides take turns at the same work in the same run, and what counts are ratios within a turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.measure import Figures, measure
from benchmarks.meter import PARTS
from benchmarks.sides import Bare, Batchq, Canvas, Side
from benchmarks.site import Command, Store, beside, broker, processes
from benchmarks.workloads import WORKLOADS, wide

WARM_UP_TASKS = 20
WARM_UP_SECONDS = 120.0
QUIET = "quiet"

Turn = dict[str, Figures]  # by the side's name
Make = Callable[[Path, int], Sequence[Side]]


@contextmanager
def running(folder: Path, make: Make, threads: int) -> Iterator[Sequence[Side]]:
    """Sides on a broker of their own, up and warm; they stay up for all workloads."""
    with broker(folder) as valkey, up(folder, valkey, make, threads) as sides:
        yield sides


@contextmanager
def up(folder: Path, valkey: psutil.Process, make: Make, threads: int) -> Iterator[Sequence[Side]]:
    """Sides on this broker, up and warm; `make` gets the folder and the number of threads."""
    sides = make(folder, threads)
    parts = [(side, part, argv) for side in sides for part, argv in side.commands(threads)]
    commands = [Command(f"{side.name}-{part}", argv, side.environment) for side, part, argv in parts]
    with processes(commands, folder) as started:
        for (side, part, _), process in zip(parts, started, strict=True):
            side.processes |= {part: process, "broker": valkey}
        for side in sides:
            measure(side, wide(WARM_UP_TASKS, side.stamps.path), WARM_UP_SECONDS)
        yield sides


def usual(store: Store, canvas: bool, quiet: bool) -> Make:
    """What makes bare Celery and batchq; `canvas` adds Celery's canvas, and `quiet` batchq without events."""

    def make(folder: Path, threads: int) -> Sequence[Side]:
        sides: list[Side] = [Bare(folder), Batchq(folder, threads, store)]
        if canvas:
            sides.append(Canvas(folder))
        if quiet:
            sides.append(Batchq(folder, threads, beside(store, QUIET), QUIET, events=False))
        return sides

    return make


def compare(
    name: str, sides: Sequence[Side], tasks: int, pairs: int, timeout: float, resting: Collection[Side] = ()
) -> dict[str, Any]:
    """The workload's figures, after one turn that does not count; sides that are `resting` take no part.

    Each turn begins with another side, so that what one leaves behind does not always hit the same next one.
    """
    work = {side.name: WORKLOADS[name](tasks, side.stamps.path) for side in sides}
    turns: list[Turn] = []
    for number in range(pairs + 1):
        order = [*sides[number % len(sides) :], *sides[: number % len(sides)]]
        turn = {}
        for side in order:
            others = [other for other in (*sides, *resting) if other is not side]
            turn[side.name] = measure(side, work[side.name], timeout, others)
        if number:
            turns.append(turn)
        click.echo(_said(name, number, pairs, turn), err=True)
    return {
        "tasks": len(work["bare"].marks),
        "sides": {side.name: _summary(side.name, turns) for side in sides},
        "runs": [{side: _run(figures) for side, figures in turn.items()} for turn in turns],
    }


def _said(name: str, number: int, pairs: int, turn: Turn) -> str:
    ratios = ", ".join(f"{side} {_ratio(turn, side):.2f}" for side in turn if side != "bare")
    return f"{name}: {f'pair {number} of {pairs}' if number else 'warm-up'}, {ratios}"


def _run(figures: Figures) -> dict[str, Any]:
    run = {name: value for name, value in asdict(figures).items() if name != "hops_ms"}
    return run | {"hop_p50_ms": hop_p50(figures)}


def _ratio(turn: Turn, side: str) -> float:
    return turn[side].tasks_per_second / turn["bare"].tasks_per_second


def _hop_ratios(side: str, turns: Sequence[Turn]) -> list[float]:
    """The hops of each turn as a multiple of the canvas's, medians of both, where both were measured."""
    pairs = [(hop_p50(turn[side]), hop_p50(turn["canvas"])) for turn in turns if "canvas" in turn]
    return [ours / canvas for ours, canvas in pairs if ours and canvas]


def _summary(side: str, turns: Sequence[Turn]) -> dict[str, Any]:
    runs = [turn[side] for turn in turns]
    return {
        "tasks_per_second": spread([run.tasks_per_second for run in runs]),
        "ratio": spread([_ratio(turn, side) for turn in turns]),
        "submit_seconds": statistics.median(run.submit_seconds for run in runs),
        "hop_ms": hop_ms(runs),
        "hop_ratio": spread(ratios) if (ratios := _hop_ratios(side, turns)) else None,
        "cpu_ratio": spread([turn[side].cpu_ms_per_task / turn["bare"].cpu_ms_per_task for turn in turns]),
        "cpu_ms_per_task": spread([run.cpu_ms_per_task for run in runs]),
        "cpu_ms": {part: spread([run.cpu_ms[part] for run in runs]) for part in PARTS if part in runs[0].cpu_ms},
        "others_cpu": statistics.median(run.others_cpu for run in runs),
        "stored_ms": _median([run.stored_ms for run in runs if run.stored_ms is not None]),
        "peak_mib": max(run.peak_mib for run in runs),
    }


def hop_ms(runs: Sequence[Figures]) -> dict[str, float] | None:
    """Median and 95th percentile of the hops of all runs, where they were measured."""
    hops = sorted(hop for run in runs for hop in run.hops_ms)
    return {"p50": percentile(hops, 50), "p95": percentile(hops, 95)} if hops else None


def hop_p50(figures: Figures) -> float | None:
    """The median of one run's hops in milliseconds, if they were measured."""
    return percentile(sorted(figures.hops_ms), 50) if figures.hops_ms else None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Of values in rising order, the one that so many per cent of them do not exceed."""
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]
