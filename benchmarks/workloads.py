"""The work of the benchmarks: jobs of no-ops, and what the operations' own stamps say about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from batchq import Job, spec
from batchq.core.states import Outcome
from batchq.spec import Condition, JobSpec, TaskSpec
from benchmarks.site import ROOT

LAYERS = 20


class Stamp(NamedTuple):
    """When an operation began and ended, in nanoseconds of the machine's monotonic clock."""

    begun: int
    ended: int


@dataclass
class Stamps:
    """The file to which every operation appends one line."""

    path: Path
    _seen: int = 0
    _lines: int = 0

    def clear(self) -> None:
        self.path.write_bytes(b"")
        self._seen = self._lines = 0

    def count(self) -> int:
        """The number of lines; only what is new is read."""
        with self.path.open("rb") as file:
            file.seek(self._seen)
            new = file.read()
        self._seen += len(new)
        self._lines += new.count(b"\n")
        return self._lines

    def read(self) -> list[tuple[str, Stamp]]:
        """The stamps with the marks of their tasks, in the order in which they were written."""
        lines = (line.split(" ", 2) for line in self.path.read_text().splitlines())
        return [(mark, Stamp(int(begun), int(ended))) for begun, ended, mark in lines]


@dataclass(frozen=True)
class Workload:
    """Jobs whose tasks are all no-ops; every operation's arguments are the stamps' file and its own mark.

    `write` makes the jobs out of plain values, as a user's code does. `gated` work is handed over before it may start.
    """

    name: str
    stamps: Path
    write: Callable[[], Sequence[Job]]
    gated: bool = False

    @cached_property
    def jobs(self) -> Sequence[JobSpec]:
        return [job.spec() for job in self.write()]

    @cached_property
    def marks(self) -> list[str]:
        """The tasks that get to run: an error branch has no error to wait for."""
        return [
            str(task.args[1])
            for job in self.jobs
            for task in job.tasks
            if all(condition.outcome is not Outcome.ERROR for condition in _conditions(task))
        ]

    def hops(self, stamps: Mapping[str, Stamp]) -> list[float]:
        """Milliseconds from the end of the last predecessor to the start of the first task that waited for the same."""
        hops = []
        for job in self.jobs:
            marks = {task.name: str(task.args[1]) for task in job.tasks}
            starts: dict[frozenset[str], int] = {}
            for task in job.tasks:
                if task.after and (stamp := stamps.get(marks[task.name])):
                    waited_for = frozenset(marks[condition.task] for condition in _conditions(task))
                    starts[waited_for] = min(starts.get(waited_for, stamp.begun), stamp.begun)
            hops += [begun - max(stamps[mark].ended for mark in before) for before, begun in starts.items()]
        return [hop / 1e6 for hop in hops]


def wide(tasks: int, stamps: Path, *, name: str = "wide") -> Workload:
    """Independent tasks, and one that waits for all of them."""

    def write() -> list[Job]:
        job = Job("wide")
        names = [job.task(f"t{n}", "noop", args=[str(stamps), f"t{n}"]).name for n in range(tasks)]
        job.task("last", "noop", args=[str(stamps), "last"], after=names)
        return [job]

    return Workload(name, stamps, write, gated=name == "drain")


def drain(tasks: int, stamps: Path) -> Workload:
    """The same, handed over before the clock starts: what the worker can do while no client takes part in the cores."""
    return wide(tasks, stamps, name="drain")


def chain(tasks: int, stamps: Path) -> Workload:
    """A tenth as many tasks, one after the other."""

    def write() -> list[Job]:
        job = Job("chain")
        for n in range(max(2, tasks // 10)):
            job.task(f"t{n}", "noop", args=[str(stamps), f"t{n}"], after=[f"t{n - 1}"] if n else None)
        return [job]

    return Workload("chain", stamps, write)


def job1(tasks: int, stamps: Path) -> Workload:
    """A twentieth as many runs of the example's JOB 1, all at once."""
    return Workload("job1", stamps, lambda: [_as_noops(stamps, run) for run in range(max(1, tasks // 20))])


def _conditions(task: TaskSpec) -> list[Condition]:
    """The conditions of a task, which has no nested join."""
    return [condition for condition in task.after if isinstance(condition, Condition)]


@cache
def _example() -> JobSpec:
    return spec.load(ROOT / "examples" / "job1.yaml").jobs["JOB 1"]


def _as_noops(stamps: Path, run: int) -> Job:
    job = Job("JOB 1")
    for task in _example().tasks:
        after = {condition.task: condition.outcome.value for condition in _conditions(task)}
        job.task(task.name, "noop", args=[str(stamps), f"{run}/{task.name}"], after=after)
    return job


def layers(tasks: int, stamps: Path) -> Workload:
    """As many tasks in twenty layers, each task after all of the layer before."""

    def write() -> list[Job]:
        job = Job("layers")
        before: list[str] | None = None
        for names in layers_of(tasks):
            for name in names:
                job.task(name, "noop", args=[str(stamps), name], after=before)
            before = names
        return [job]

    return Workload("layers", stamps, write)


def layers_of(tasks: int) -> list[list[str]]:
    """The names of the tasks, layer by layer."""
    return [[f"{layer}.{n}" for n in range(max(1, tasks // LAYERS))] for layer in range(LAYERS)]


WORKLOADS: dict[str, Callable[[int, Path], Workload]] = {
    "wide": wide,
    "drain": drain,
    "chain": chain,
    "job1": job1,
    "layers": layers,
}
