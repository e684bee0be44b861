"""What batchq is to reach, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from benchmarks.grid import Saved


class Target(NamedTuple):
    """A bound of one figure on one database, by the number of threads from which on it holds."""

    said: str
    workload: str
    figure: str  # as the summary of a side has it
    database: str
    bounds: Mapping[int, float]
    at_most: bool = False


class CommitTarget(NamedTuple):
    """The most that a figure of a commit by itself may be on one database."""

    said: str
    case: str
    figure: str
    database: str
    bound: float


class Verdict(NamedTuple):
    """A target, what was measured, and whether it is met; the median is what counts."""

    said: str
    database: str
    threads: int | None
    target: float
    at_most: bool
    measured: Mapping[str, float]
    met: bool


WIDE = ("wide", "layers")
TARGETS = (
    *(Target(f"{name}, to bare", name, "ratio", "sqlite", {1: 0.9, 2: 1.2, 4: 1.2}) for name in WIDE),
    *(Target(f"{name}, to bare", name, "ratio", "postgresql", {1: 0.5, 2: 0.75, 4: 1.0}) for name in WIDE),
    Target("job1, to bare", "job1", "ratio", "sqlite", {1: 0.75, 2: 0.85, 4: 1.0}),
    Target("job1, to bare", "job1", "ratio", "postgresql", {1: 0.45, 2: 0.6, 4: 0.8}),
    Target("hop, to Celery's chain", "chain", "hop_ratio", "sqlite", {1: 0.9}, at_most=True),
    Target("hop, to Celery's chain", "chain", "hop_ratio", "postgresql", {1: 1.1}, at_most=True),
    *(Target(f"{name}, CPU to bare", name, "cpu_ratio", "sqlite", {1: 0.8}, at_most=True) for name in WIDE),
    *(
        Target(f"{name}, CPU to bare", name, "cpu_ratio", "postgresql", {1: 1.5, 2: 1.0, 4: 0.9}, at_most=True)
        for name in WIDE
    ),
)
COMMIT_TARGETS = (
    CommitTarget("one server, CPU ms", "one", "cpu_ms", "sqlite", 0.5),
    CommitTarget("one server, the client's CPU ms", "one", "cpu_ms", "postgresql", 0.45),
    CommitTarget("one server, round trips", "one", "round_trips", "postgresql", 2),
    CommitTarget("many servers, CPU to one server", "many_to_one", "cpu_ms", "sqlite", 1.3),
    CommitTarget("many servers, the client's CPU to one server", "many_to_one", "cpu_ms", "postgresql", 1.3),
    CommitTarget("many servers, with the database's CPU", "many_to_one", "all_cpu_ms", "postgresql", 1.3),
)


def bound_at(bounds: Mapping[int, float], threads: int) -> float:
    """The bound that holds at so many threads."""
    return bounds[max(least for least in bounds if least <= threads)]


def judged(report: Saved) -> list[Verdict]:
    """The verdicts of a run of all widths, as far as it measured what they are about."""
    return [*_by_width(report), *commits_judged(report["commit"])]


def _by_width(report: Saved) -> Iterator[Verdict]:
    for target in TARGETS:
        for threads, found in report["widths"].items():
            sides = found["workloads"].get(target.workload, {}).get("sides", {})
            measured = sides.get(target.database, {}).get(target.figure)
            if measured:
                bound = bound_at(target.bounds, int(threads))
                yield _verdict(target.said, target.database, int(threads), bound, target.at_most, measured)


def commits_judged(commit: Saved) -> list[Verdict]:
    """The verdicts of commits by themselves, by database."""
    return [
        _verdict(target.said, target.database, None, target.bound, True, measured)
        for target in COMMIT_TARGETS
        if (measured := commit.get(target.database, {}).get(target.case, {}).get(target.figure))
    ]


def _verdict(
    said: str, database: str, threads: int | None, bound: float, at_most: bool, measured: Mapping[str, float]
) -> Verdict:
    median = measured["median"]
    met = median <= bound if at_most else median >= bound
    return Verdict(said, database, threads, bound, at_most, measured, met)
