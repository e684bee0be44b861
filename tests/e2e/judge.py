"""The judge: holds what the operations wrote down themselves against what the database says of a run that has ended.

It knows the rules from `rules.py`, and shares nothing with the code that it judges but the tables.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from batchq import Job
from batchq.spec import JobSpec
from batchq.tables import Attempt, Run, Task, TaskCondition
from e2e.site import Entry, Site
from rules import ENDS, Plan, is_met, judged, verdict

CUT_OFF = ("lost:", "timed out:")
# The database has the wall clock, the operations the monotonic one: what two readings of both may differ by.
CLOCK_SECONDS = 0.05


@dataclass(frozen=True)
class Books:
    """A run in the database: its row, its tasks by name, of each the attempts by number and the conditions."""

    run: Any
    tasks: Mapping[str, Any]
    attempts: Mapping[str, Mapping[int, Any]]
    conditions: Mapping[str, list[Any]]


def judge(site: Site, runs: Mapping[int, Job], threads: Mapping[str, int]) -> None:
    """Fail with all that is wrong with these runs, all of which must have ended, and with the load of these servers."""
    found = []
    entries: list[Entry] = []
    attempts: dict[tuple[int, str, int], Any] = {}
    for run, job in runs.items():
        books = read(site, run)
        written = site.ledger(run)
        found += [f"run {run}: {fault}" for fault in faults(books, job.spec(), written)]
        entries += written
        attempts |= {(run, name, n): row for name, rows in books.attempts.items() for n, row in rows.items()}
    found += crowded(entries, attempts, threads)
    assert not found, "\n".join(found)


def read(site: Site, run: int) -> Books:
    """What the database says of the run, at one moment."""
    with site.database.read() as tx:
        (row,) = tx.execute(select(Run.__table__).where(Run.id == run))
        tasks = {task.name: task for task in tx.execute(select(Task.__table__).where(Task.run_id == run))}
        names = {task.id: task.name for task in tasks.values()}
        attempts: dict[str, dict[int, Any]] = {name: {} for name in tasks}
        for attempt in tx.execute(select(Attempt.__table__).join(Task).where(Task.run_id == run)):
            attempts[names[attempt.task_id]][attempt.attempt] = attempt
        conditions: dict[str, list[Any]] = {name: [] for name in tasks}
        for condition in tx.execute(
            select(TaskCondition.__table__).join(Task, Task.id == TaskCondition.task_id).where(Task.run_id == run)
        ):
            conditions[names[condition.task_id]].append(condition)
    return Books(row, tasks, attempts, conditions)


def faults(books: Books, job: JobSpec, written: Iterable[Entry]) -> Iterator[str]:
    """All that is wrong with the run, a sentence each."""
    starts: dict[str, list[Entry]] = defaultdict(list)
    for entry in written:
        starts[entry.task].append(entry)
    yield from _wrong_ends(books, plan_of(job))
    yield from _wrong_counters(books)
    for task in job.tasks:
        yield from _wrong_starts(books, task.name, starts[task.name])
        yield from _too_early(books, task, starts)


def plan_of(job: JobSpec) -> Plan:
    """The job in the words of `rules.py`."""
    return Plan(
        {task.name: [(each.task, each.outcome.value, each.handles) for each in task.after] for task in job.tasks},
        {task.name: task.join.value for task in job.tasks},
        {task.name for task in job.tasks if task.ignore_failure},
    )


# --- the database -------------------------------------------------------------------------------------------


def _wrong_ends(books: Books, plan: Plan) -> Iterator[str]:
    """Whether every task ended, and as the rules have it, given how those ended that ran."""
    states = {name: task.status for name, task in books.tasks.items()}
    for name, state in states.items():
        ought = judged(plan, states, name)
        if state not in ENDS or (ought == "ready") != (state in ("success", "error")):
            yield f"{name} is {state}; by its conditions: {ought}"
    if books.run.status != verdict(plan, states):
        yield f"the verdict is {books.run.status}, not {verdict(plan, states)}"


def _wrong_counters(books: Books) -> Iterator[str]:
    """Whether every number in a row is the number of what it counts."""
    unended = sum(task.status not in ENDS for task in books.tasks.values())
    if books.run.open_tasks != unended or unended:
        yield f"open_tasks is {books.run.open_tasks} while {unended} have not ended"
    for name, task in books.tasks.items():
        met = [condition.met for condition in books.conditions[name]]
        counted = met.count(None), met.count(True), met.count(False)
        if (task.pending, task.met, task.impossible) != counted or task.unsettled:
            numbers = f"{task.pending}, {task.met}, {task.impossible}"
            yield f"{name} counts {numbers} conditions open, met, impossible, not {counted}; {task.unsettled=}"
        if sorted(books.attempts[name]) != list(range(1, task.attempt + 1)):
            yield f"{name} was claimed {task.attempt} times and has the attempts {sorted(books.attempts[name])}"


# --- the operations' own word -------------------------------------------------------------------------------


def _wrong_starts(books: Books, name: str, starts: list[Entry]) -> Iterator[str]:
    """Whether the task started no more often than it may, and the database tells what came of each start."""
    task, attempts = books.tasks[name], books.attempts[name]
    if max(len(starts), task.attempt) > task.retries + 1:
        yield f"{name} has {task.retries} retries, {len(starts)} starts and {task.attempt} claims"
    if starts and task.status not in ("success", "error"):
        yield f"{name} is {task.status} and started: {starts}"
    written = {entry.attempt: entry for entry in starts}
    if unknown := written.keys() - attempts.keys():
        yield f"{name} started in attempts that are not in the books: {sorted(unknown)}"
    for number, attempt in attempts.items():
        last = number == task.attempt
        if attempt.status != (task.status if last else "error"):
            yield f"{name} is {task.status}, and attempt {number} of {task.attempt} is {attempt.status}"
        entry = written.get(number)
        if not cut_off(attempt) and (entry is None or entry.end is None or entry.server != attempt.server):
            yield f"{name}: attempt {number} is {attempt.status} on {attempt.server}, and wrote down {entry}"


def _too_early(books: Books, task: Any, starts: Mapping[str, list[Entry]]) -> Iterator[str]:
    """Whether a start came before the end of what it had to wait for: a condition, or the attempt before it."""
    states = {name: row.status for name, row in books.tasks.items()}
    met = [each.task for each in task.after if is_met(each.outcome.value, states[each.task])]
    ends = [_end_of(books, starts, name) for name in met]
    for entry in starts[task.name]:
        enough = (min if task.join.value == "any" else max)(ends, default=0.0)
        if entry.start < enough:
            yield f"{task.name} started {enough - entry.start:.3f} s before what it waits for had ended"
        before = books.attempts[task.name].get(entry.attempt - 1)
        if before is not None and entry.start < monotonic(before.ended_at):
            yield f"{task.name}: attempt {entry.attempt} started before the one before it was over"


def _end_of(books: Books, starts: Mapping[str, list[Entry]], name: str) -> float:
    """The first instant at which others may count on how the task ended."""
    last = books.attempts[name].get(books.tasks[name].attempt)
    if last is None:
        return 0.0
    own = [entry.end or 0.0 for entry in starts[name] if entry.attempt == last.attempt and not cut_off(last)]
    return max(monotonic(last.ended_at), *own, 0.0)


def crowded(
    entries: Iterable[Entry], attempts: Mapping[tuple[int, str, int], Any], threads: Mapping[str, int]
) -> Iterator[str]:
    """The servers on which more ran at once than they have threads (rule 16).

    What never wrote down its end counts until the database had it as over.
    """
    edges: dict[str, list[tuple[float, int, Entry]]] = defaultdict(list)
    for entry in entries:
        lost = attempts.get((entry.run, entry.task, entry.attempt))
        end = entry.end or (monotonic(lost.ended_at) if lost else float("inf"))
        edges[entry.server] += [(entry.start, 1, entry), (max(end, entry.start + 1e-6), -1, entry)]
    for server, changes in edges.items():
        running: list[Entry] = []
        for _, step, entry in sorted(changes, key=lambda change: change[:2]):
            running.append(entry) if step > 0 else running.remove(entry)
            if len(running) > threads[server]:
                yield f"{server} has {threads[server]} threads and ran at once: {running}"
                break


def cut_off(attempt: Any) -> bool:
    """Whether the attempt was over before its operation came to an end of its own."""
    return (attempt.error or "").startswith(CUT_OFF)


def monotonic(instant: datetime) -> float:
    """The latest time by which the monotonic clock of this machine may have said so."""
    return instant.timestamp() - _OFFSET - CLOCK_SECONDS


_OFFSET = time.time() - time.monotonic()
