"""The work of the benchmarks: jobs of no-ops, and what the operations' own stamps say about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from batchq import Job, spec
from batchq.core.states import Outcome
from batchq.spec import JobSpec

ROOT = Path(__file__).parents[1]
LAYERS = 20


class Stamp(NamedTuple):
    """When an operation began and ended, in nanoseconds of the machine's monotonic clock."""

    begun: int
    ended: int


@dataclass(frozen=True)
class Stamps:
    """The file to which every operation appends one line."""

    path: Path

    def clear(self) -> None:
        self.path.write_bytes(b"")

    def count(self) -> int:
        return self.path.read_bytes().count(b"\n")

    def read(self) -> dict[str, Stamp]:
        """The stamps by the marks of their tasks."""
        lines = (line.split(" ", 2) for line in self.path.read_text().splitlines())
        return {mark: Stamp(int(begun), int(ended)) for begun, ended, mark in lines}


@dataclass(frozen=True)
class Workload:
    """Jobs whose tasks are all no-ops; every operation's arguments are the stamps' file and its own mark."""

    name: str
    jobs: Sequence[JobSpec]

    @cached_property
    def marks(self) -> list[str]:
        """The tasks that get to run: an error branch has no error to wait for."""
        return [
            str(task.args[1])
            for job in self.jobs
            for task in job.tasks
            if all(condition.outcome is not Outcome.ERROR for condition in task.after)
        ]

    def hops(self, stamps: Mapping[str, Stamp]) -> list[float]:
        """Milliseconds from the end of the last predecessor to the start of the first task that waited for the same."""
        hops = []
        for job in self.jobs:
            marks = {task.name: str(task.args[1]) for task in job.tasks}
            starts: dict[frozenset[str], int] = {}
            for task in job.tasks:
                if task.after and (stamp := stamps.get(marks[task.name])):
                    waited_for = frozenset(marks[condition.task] for condition in task.after)
                    starts[waited_for] = min(starts.get(waited_for, stamp.begun), stamp.begun)
            hops += [begun - max(stamps[mark].ended for mark in before) for before, begun in starts.items()]
        return [hop / 1e6 for hop in hops]


def wide(tasks: int, stamps: str) -> Workload:
    """Independent tasks, and one that waits for all of them."""
    job = Job("wide")
    names = [job.task(f"t{n}", "noop", args=[stamps, f"t{n}"]).name for n in range(tasks)]
    job.task("last", "noop", args=[stamps, "last"], after=names)
    return Workload("wide", [job.spec()])


def chain(tasks: int, stamps: str) -> Workload:
    """A tenth as many tasks, one after the other."""
    job = Job("chain")
    for n in range(max(2, tasks // 10)):
        job.task(f"t{n}", "noop", args=[stamps, f"t{n}"], after=[f"t{n - 1}"] if n else None)
    return Workload("chain", [job.spec()])


def job1(tasks: int, stamps: str) -> Workload:
    """A twentieth as many runs of the example's JOB 1, all at once."""
    example = spec.load(ROOT / "examples" / "job1.yaml").jobs["JOB 1"]
    return Workload("job1", [_as_noops(example, stamps, run) for run in range(max(1, tasks // 20))])


def _as_noops(job: JobSpec, stamps: str, run: int) -> JobSpec:
    tasks = (
        task.model_copy(update={"run": "noop", "args": [stamps, f"{run}/{task.name}"], "kwargs": {}})
        for task in job.tasks
    )
    return job.model_copy(update={"tasks": tuple(tasks)})


def layers(tasks: int, stamps: str) -> Workload:
    """As many tasks in twenty layers, each task after all of the layer before."""
    job = Job("layers")
    before: list[str] | None = None
    for layer in range(LAYERS):
        names = [f"{layer}.{n}" for n in range(max(1, tasks // LAYERS))]
        for name in names:
            job.task(name, "noop", args=[stamps, name], after=before)
        before = names
    return Workload("layers", [job.spec()])


WORKLOADS: dict[str, Callable[[int, str], Workload]] = {
    "wide": wide,
    "chain": chain,
    "job1": job1,
    "layers": layers,
}
