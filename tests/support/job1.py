"""The article's JOB 1 and its acceptance table, as docs/rules.md has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from batchq import Job

TASKS = [f"TASK {number}" for number in range(1, 8)]


@dataclass(frozen=True)
class Row:
    """A row of the table, by the numbers of the tasks: what fails, and how all of them end."""

    fails: tuple[int, ...]
    success: tuple[int, ...]
    error: tuple[int, ...]
    didnt_run: tuple[int, ...]
    verdict: str

    def __str__(self) -> str:
        return " and ".join(map(str, self.fails)) + " fails" if self.fails else "nothing fails"

    @property
    def failing(self) -> set[str]:
        """The names of the tasks that fail."""
        return {f"TASK {number}" for number in self.fails}

    @property
    def states(self) -> dict[str, str]:
        """The state in which each task ends."""
        ends = {"success": self.success, "error": self.error, "didnt_run": self.didnt_run}
        by_number = {number: state for state, numbers in ends.items() for number in numbers}
        return {f"TASK {number}": by_number[number] for number in sorted(by_number)}


TABLE = [
    Row((), (1, 2, 3, 4, 7), (), (5, 6), "success"),
    Row((1,), (2, 3, 4, 7), (1,), (5, 6), "error"),
    Row((2,), (1, 5), (2,), (3, 4, 6, 7), "error"),
    Row((3,), (1, 2, 4, 6), (3,), (5, 7), "error"),
    Row((4,), (1, 2, 3), (4,), (5, 6, 7), "error"),
    Row((3, 4), (1, 2, 6), (3, 4), (5, 7), "error"),
    Row((2, 5), (1,), (2, 5), (3, 4, 6, 7), "error"),
]
# Who waits for whom.
AFTER = {
    "TASK 2": ("TASK 1",),
    "TASK 3": ("TASK 2",),
    "TASK 4": ("TASK 2",),
    "TASK 5": ("TASK 2",),
    "TASK 6": ("TASK 3",),
    "TASK 7": ("TASK 3", "TASK 4"),
}


def job_1(
    failing: Collection[str] = (),
    kwargs: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    *,
    group: str | None = None,
) -> Job:
    """JOB 1 with tasks that run `ledger.work`; the `failing` fail, and `kwargs` gives a task more arguments."""
    job = Job("JOB 1", group=group)

    def task(name: str, after: Any = None) -> Any:
        given = {**({"fail": True} if name in failing else {}), **kwargs.get(name, {})}
        return job.task(name, "ledger.work", kwargs=given, after=after)

    t1 = task("TASK 1")
    t2 = task("TASK 2", t1.finished)
    t3 = task("TASK 3", t2.success)
    t4 = task("TASK 4", t2.success)
    task("TASK 5", t2.error)
    task("TASK 6", t3.error)
    task("TASK 7", t3.success & t4.success)
    return job
