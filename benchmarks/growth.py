"""What a task costs when there are many: in one job, behind it in the books, or waiting beside it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from sqlalchemy import func, select

from batchq import Job, actions, spec
from batchq.core.states import RUN_OPEN
from batchq.store.columns import RUN
from benchmarks import site
from benchmarks.compare import running, spread
from benchmarks.measure import Figures, measure
from benchmarks.sides import Batchq
from benchmarks.workloads import Workload, wide

SMALL = 1000
WIDTH = 10
ELSEWHERE = "Elsewhere"
WAITING_TASKS = 100


def narrow(tasks: int, stamps: Path) -> Workload:
    """Layers of ten, each task after all of the layer before: ten conditions a task, however many tasks."""

    def write() -> list[Job]:
        job = Job("narrow")
        before: list[str] | None = None
        for layer in range(tasks // WIDTH):
            names = [f"{layer}.{n}" for n in range(WIDTH)]
            for name in names:
                job.task(name, "noop", args=[str(stamps), name], after=before)
            before = names
        return [job]

    return Workload("narrow", stamps, write)


def one_less(tasks: int, stamps: Path) -> Workload:
    """As many tasks in all, of which one waits for all others."""
    return wide(tasks - 1, stamps)


SHAPES: dict[str, Callable[[int, Path], Workload]] = {"wide": one_less, "layers": narrow}
CASES = [*SHAPES, "waiting"]


def grow(
    case: str, tasks: int, jobs: int, repeat: int, threads: int, postgresql: bool, timeout: float
) -> dict[str, Any]:
    """The case's figures on a new database: small jobs, then what makes it grow, then small jobs again."""
    with ExitStack() as stack:
        folder = stack.enter_context(site.folder("batchq-bench-"))
        store = stack.enter_context(site.database(postgresql, folder))
        (side,) = stack.enter_context(running(folder, lambda at, width: [Batchq(at, width, store)], threads))
        assert isinstance(side, Batchq)
        few = min(SMALL, tasks)
        small = SHAPES.get(case, one_less)(few, side.stamps.path)

        def several(said: str) -> list[Figures]:
            click.echo(f"{case}: {repeat} × {few:,} tasks {said}", err=True)
            return [measure(side, small, timeout) for _ in range(repeat + 1)][1:]

        before = several("before")
        if case == "waiting":
            click.echo(f"{case}: {jobs:,} jobs of {WAITING_TASKS} are stored", err=True)
            _let_wait(side, jobs)
            beside = several("while they wait")
            assert _waiting(side) == jobs, "they should have waited"
            return _told(case, {"few": few, "small": _cost(before), "jobs": jobs, "large": _cost(beside)})
        click.echo(f"{case}: {tasks:,} tasks", err=True)
        large = measure(side, SHAPES[case](tasks, side.stamps.path), timeout)
        after = _cost(several("after"))
        return _told(
            case, {"few": few, "small": _cost(before), "tasks": tasks, "large": _cost([large]), "after": after}
        )


def _told(case: str, found: dict[str, Any]) -> dict[str, Any]:
    """The same, after saying what is most of interest in it."""
    cpu, wall = (
        found["large"][name]["median"] / found["small"][name]["median"]
        for name in ("cpu_ms_per_task", "wall_ms_per_task")
    )
    click.echo(f"{case}: {cpu:.2f} × the CPU time of a task in small jobs, {wall:.2f} × the wall time", err=True)
    return found


def _let_wait(side: Batchq, jobs: int) -> None:
    """So many jobs, ready but for a server: the only one that takes their group is not started."""
    actions.apply(side.batch.database, spec.loads(f"servers: {{{ELSEWHERE}: {{groups: [{ELSEWHERE}]}}}}"))
    for number in range(jobs):
        side.batch.submit(_waiting_job(number))


def _waiting(side: Batchq) -> int:
    """The number of runs that are not through."""
    with side.batch.database.read() as tx:
        return tx.scalars(select(func.count()).where(RUN.status.in_(RUN_OPEN))).one()


def _waiting_job(number: int) -> Job:
    job = Job(f"waiting {number}", group=ELSEWHERE)
    names = [job.task(f"t{n}", "noop", args=["", ""]).name for n in range(WAITING_TASKS - 1)]
    job.task("last", "noop", args=["", ""], after=names)
    return job


def _cost(runs: Sequence[Figures]) -> dict[str, Any]:
    """CPU and wall time per task, submit and storing included; and the memory of the main processes."""
    resident = [run.resident_mib for run in runs]
    return {
        "cpu_ms_per_task": spread([run.cpu_ms_per_task for run in runs]),
        "wall_ms_per_task": spread([1000 / run.tasks_per_second for run in runs]),
        "submit_seconds": statistics.median(run.submit_seconds for run in runs),
        "cpu_ms": {part: statistics.median(run.cpu_ms[part] for run in runs) for part in runs[0].cpu_ms},
        "resident_mib": {
            part: {
                "begin": resident[0][part].begin,
                "most": max(one[part].most for one in resident),
                "end": resident[-1][part].end,
            }
            for part in resident[0]
        },
    }
