"""The scene of a plan: the runs to play, their servers, and the facts that the database holds about both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from batchq import views
from batchq.core import retries, secrets
from batchq.core.conditions import Join
from batchq.core.limits import named
from batchq.core.priority import PRIORITIES
from batchq.core.simulated import Found, SimRun, SimTask
from batchq.core.states import TERMINAL, RunState, State
from batchq.core.topology import DEFAULT_GROUP, Topology
from batchq.planning import past
from batchq.planning.guess import Guess, Past, check_names, needs_past
from batchq.planning.open_runs import OpenRun, OpenTask, open_runs
from batchq.planning.servers import choose_servers, with_pools
from batchq.spec import Document, JobSpec, Priority, TaskSpec
from batchq.store import topology as topologies
from batchq.store.database import Database
from batchq.store.group import group_priorities
from batchq.store.lane import lanes_of
from batchq.store.transaction import Tx
from batchq.views import PRIORITY_NAMES
from batchq.views.limit import limit_names

NOWHERE = Topology(())


@dataclass(frozen=True)
class Subject:
    """A job to plan, or a `run` of it that is under way with its tasks as they are `found`."""

    job: JobSpec
    run: int | None = None
    found: Mapping[str, Found] = field(default_factory=dict)
    canceling: bool = False


@dataclass(frozen=True)
class Scene:
    """The runs to play, and their servers; `source` is `file`, `database`, `both` or `default`."""

    subjects: Sequence[Subject]
    topology: Topology
    source: str
    priorities: Mapping[str, int]
    guess: Guess

    def runs(self) -> list[SimRun]:
        """The runs as the simulation takes them."""
        return [simulated(subject, self.guess, self.priorities) for subject in self.subjects]


@dataclass(frozen=True)
class Site:
    """The installation: `opened` gives its database or None, `pool` is the size of each worker's pool."""

    opened: Callable[[], Database | None]
    pool: int
    default_servers: Sequence[str]


def set_scene(document: Document, jobs: Sequence[JobSpec], guess: Guess, site: Site, *, queue: bool) -> Scene:
    """Collect the runs to play, their servers and the guess; with `queue` the open runs come before the jobs.

    The database is opened only if something depends on it. Raises InvalidInput for a name in
    the guess that no task has.
    """
    seen = Seen()
    needed = queue or not document.servers or needs_past(jobs, guess)
    if needed and (opened := site.opened()):
        with opened.read() as tx:
            seen = see(tx, jobs, queue=queue)
    subjects = [*seen.queue, *map(Subject, jobs)]
    every = [subject.job for subject in subjects]
    check_names(every, guess.durations, "--duration", operations=True)
    check_names(every, guess.failing, "--failing")
    topology, source = choose_servers(document, seen.topology, queue=queue, default=site.default_servers)
    return Scene(
        subjects,
        _limited(with_pools(topology, site.pool), seen.topology, document, every),
        source,
        {**seen.priorities, **priorities_of(document)},
        replace(guess, past=seen.past),
    )


def _limited(topology: Topology, stored: Topology, document: Document, jobs: Sequence[JobSpec]) -> Topology:
    """The servers with the limits of the database as the file would set them, and those of the jobs by their names."""
    of_file = {named(name): units for name, units in document.limits.items()}
    of_jobs = {_job_key(job.name): job.tasks_at_once for job in jobs if job.tasks_at_once is not None}
    per_run = {name: units for name, units in stored.per_run.items() if name not in document.groups}
    per_run |= {name: group.per_run for name, group in document.groups.items() if group.per_run is not None}
    return replace(topology, units={**stored.units, **of_file, **of_jobs}, per_run=per_run)


def _job_key(name: str) -> str:
    """The key of a job's own limit: a plan knows jobs by their names."""
    return f"job:{name}"


@dataclass(frozen=True)
class Seen:
    """Facts of a database for a plan; `priorities` are those of the groups, `queue` holds the open runs."""

    topology: Topology = NOWHERE
    priorities: Mapping[str, int] = field(default_factory=dict)
    past: Past = field(default_factory=Past)
    queue: tuple[Subject, ...] = ()


def see(tx: Tx, jobs: Sequence[JobSpec], *, queue: bool = False) -> Seen:
    """Read the servers and groups as they stand, and the usual durations of the tasks of these jobs.

    With `queue` it reads the open runs too, the oldest first, and the durations of their tasks.
    """
    subjects = tuple(_subject(tx, run) for run in open_runs(tx)) if queue else ()
    jobs = [*jobs, *(subject.job for subject in subjects)]
    operations = {operation for job in jobs for operation in job.operations}
    took = Past(past.of_tasks(tx, {job.name for job in jobs}), past.of_operations(tx, operations))
    return Seen(topologies.read(tx), group_priorities(tx), took, subjects)


def _subject(tx: Tx, run: OpenRun) -> Subject:
    """An open run as a job whose tasks are found somewhere on their way."""
    newest = json.loads(views.definition(tx, run.row.job))
    expected = {task["name"]: task.get("duration") for task in newest["tasks"]}
    rows = [row for row in run.tasks.values() if not row.unnamed]
    lanes = lanes_of(tx, {row.lane for row in rows})
    keys = {row.name: lanes[row.lane].keys for row in rows}
    tasks = tuple(_stored(row, run, expected.get(row.name), keys[row.name]) for row in rows)
    units = topologies.current(tx).units
    of_job = {units.get(key) for found in keys.values() for key in found if key.startswith("job:")}
    return Subject(
        JobSpec.model_construct(name=run.row.job, tasks=tasks, tasks_at_once=next(iter(of_job), None)),
        run.row.id,
        {row.name: _found(row) for row in rows},
        run.row.status == RunState.CANCELING,
    )


def _stored(row: OpenTask, run: OpenRun, duration: float | None, keys: Sequence[str]) -> TaskSpec:
    """A task as it was stored, with the expected duration of the job's newest definition."""
    policy = retries.read(row.policy)
    return TaskSpec.model_construct(
        name=row.name,
        run=None if row.gate else row.operation,
        args=json.loads(row.args),
        kwargs=secrets.unpacked(row.kwargs)[0],
        after=run.after(row),
        join=Join(row.joined),
        group=row.group_name,
        priority=cast(Priority, PRIORITY_NAMES[row.own_class]),
        retries=row.retries,
        retry_delay=row.retry_delay,
        retry_backoff=policy.backoff,
        retry_delay_max=policy.most,
        retry_jitter=policy.jitter,
        retry_on=policy.on or None,
        retry_never_on=policy.never or None,
        time_limit=row.time_limit,
        duration=duration,
        ignore_failure=row.ignore_failure,
        limits=tuple(limit_names(keys)),
    )


def _found(row: OpenTask) -> Found:
    state = State(row.status)
    since = row.ended_at if state in TERMINAL else row.claimed_at if state is State.EXECUTING else row.ready_at
    aborted = state is State.CANCELED and row.claimed_at is not None
    server = row.server_id if state is State.EXECUTING else None
    started = row.claimed_at if state in TERMINAL else None
    return Found(state, since, server, row.attempt, aborted, started, row.retried_at)


def priorities_of(document: Document) -> dict[str, int]:
    """The priorities of the groups in a file."""
    return {name: PRIORITIES[group.priority] for name, group in document.groups.items()}


def simulated(subject: Subject, guess: Guess, priorities: Mapping[str, int]) -> SimRun:
    """The run as the simulation takes it; `priorities` are those of the groups (rule 28)."""
    job = subject.job
    tasks = (
        replace(_simulated(job, task, guess, priorities), found=subject.found.get(task.name, Found()))
        for task in job.tasks
    )
    return SimRun(job.name, tuple(tasks), subject.canceling)


def _simulated(job: JobSpec, task: TaskSpec, guess: Guess, priorities: Mapping[str, int]) -> SimTask:
    seconds, _ = guess.seconds(job, task)
    late = task.time_limit is not None and seconds > task.time_limit
    group = task.group or job.group or DEFAULT_GROUP
    priority = task.priority or job.priority
    return SimTask(
        name=task.name,
        seconds=task.time_limit if late and task.time_limit is not None else seconds,
        after=task.after,
        join=task.join,
        group=group,
        priority=PRIORITIES[priority] if priority else priorities.get(group, PRIORITIES["normal"]),
        fails=late or guess.fails(job, task),
        ignore_failure=task.ignore_failure,
        retries=task.retries,
        retry_delay=task.retry_delay,
        gate=task.run is None,
        policy=task.policy,
        limits=(
            *map(named, sorted({*job.limits, *task.limits})),
            *([_job_key(job.name)] if job.tasks_at_once is not None else []),
        ),
    )
