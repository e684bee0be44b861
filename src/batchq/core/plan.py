"""A simulation of the time to come: which task would start when and where, by the rules that decide it for real.

Conditions, bindings, windows, the order of what is ready and the choice of what gets a thread are those of
`core.conditions`, `core.affinity` and `core.windows`. The only guess is how long each attempt takes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import accumulate, pairwise

from batchq.core.admission import admit, candidates_wanted, free_threads
from batchq.core.conditions import Condition, Ended, Join, readiness, resolution, verdict
from batchq.core.states import TERMINAL, RunState, State, after_attempt
from batchq.core.topology import DEFAULT_GROUP, Topology
from batchq.core.why import why_ready
from batchq.core.windows import periods, zone

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
NO_TIME = timedelta(0)

Entry = tuple[int, datetime, int]  # of what is ready, best first: priority (negative), since when, number


@dataclass(frozen=True, slots=True)
class Found:
    """How a task stands at the begin; `since` is when it became ready, started on `server` (an id), or ended."""

    state: State = State.WAITING
    since: datetime | None = None
    server: int | None = None
    attempts: int = 0
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """A task to simulate: each attempt takes `seconds`, and all of them fail if it `fails`."""

    name: str
    seconds: float
    after: tuple[Condition, ...] = ()
    join: Join = Join.ALL
    group: str = DEFAULT_GROUP
    priority: int = 1
    fails: bool = False
    ignore_failure: bool = False
    retries: int = 0
    retry_delay: float = 0.0
    found: Found = Found()


@dataclass(frozen=True, slots=True)
class Job:
    """A run to simulate; one that is `canceling` lets no attempt follow, and is canceled in the end (rule 32)."""

    name: str
    tasks: tuple[Task, ...]
    canceling: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of the task with this place in `Forecast.tasks`; `end` is None beyond the horizon."""

    task: int
    server: str
    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Planned:
    """How a task stands at the horizon; `job` is the place of its run in `Forecast.jobs`.

    Its times are those of its last attempt, `waited` is what all of them waited.
    """

    job: int
    task: str
    group: str
    seconds: float
    state: State
    server: str | None
    attempts: int
    ready_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    waited: timedelta


@dataclass(frozen=True, slots=True)
class Close:
    """How and when a run ends; both None if that is not within the horizon."""

    job: str
    verdict: RunState | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Hour:
    """From `start` to `end`, in thread-seconds: what each server offers and uses, what is left over, what lacks.

    `missing` adds up how long ready tasks wait, each for one thread; those of a paused group do not count.
    """

    start: datetime
    end: datetime
    threads: Mapping[str, float]
    busy: Mapping[str, float]
    idle: float
    missing: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a simulation found: tasks in the order of their jobs, attempts in that of their starts."""

    begin: datetime
    end: datetime
    topology: Topology
    jobs: tuple[Close, ...]
    tasks: tuple[Planned, ...]
    attempts: tuple[Attempt, ...]
    hours: tuple[Hour, ...]

    def why(self, group: str, instant: datetime, timezone: str | None = None) -> str:
        """Why a ready task of the group does not start at this instant, as one clause (rule 40)."""
        ids = {server.name: server.id for server in self.topology.servers}
        busy = Counter(
            ids[attempt.server]
            for attempt in self.attempts
            if attempt.start <= instant and (attempt.end is None or attempt.end > instant)
        )
        return why_ready(group, self.topology, busy, instant, timezone)


def plan(topology: Topology, jobs: Sequence[Job], begin: datetime, end: datetime, timezone: str = "UTC") -> Forecast:
    """What would happen from `begin` to `end`, both aware, if the jobs were submitted at `begin` in this order.

    Every server counts as running. The hours are those of the clock in `timezone`, an IANA name, the first
    and the last of them cut off. What would start at `end` does not, what ends then does.
    """
    running = replace(topology, servers=tuple(replace(server, alive=True) for server in topology.servers))
    return _Simulation(running, jobs, begin.astimezone(UTC), end.astimezone(UTC), timezone).run()


def full_hours(begin: datetime, end: datetime, timezone: str) -> Iterator[datetime]:
    """When the clock in `timezone` shows a full hour, between `begin` and `end`."""
    there = begin.astimezone(zone(timezone))
    hour = begin + HOUR - timedelta(minutes=there.minute, seconds=there.second, microseconds=there.microsecond)
    while hour < end:
        yield hour
        hour += HOUR


@dataclass(slots=True)
class _Standing:
    """A task on its way, with the numbers that its conditions are counted in."""

    task: Task
    job: int
    pending: int
    met: int = 0
    impossible: int = 0
    state: State = State.WAITING
    attempts: int = 0
    server: int | None = None
    ready_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    waited: timedelta = NO_TIME


class _Simulation:
    """All tasks and servers at one instant, which moves on from event to event."""

    def __init__(self, topology: Topology, jobs: Sequence[Job], begin: datetime, end: datetime, timezone: str) -> None:
        self.topology = self.present = topology
        self.begin, self.now, self.end = begin, begin, end
        self.jobs = jobs
        self.tasks = [_Standing(task, number, len(task.after)) for number, job in enumerate(jobs) for task in job.tasks]
        self.numbers = _numbers(jobs)
        self.successors = _successors(jobs, self.numbers)
        self.open_tasks = [len(job.tasks) for job in jobs]
        self.closed_at: list[datetime | None] = [None] * len(jobs)
        self.ready: defaultdict[str, list[Entry]] = defaultdict(list)
        self.due: list[tuple[datetime, int]] = []
        self.busy: Counter[int] = Counter()
        self.attempts: list[Attempt] = []
        self.executing: dict[int, int] = {}
        self.changes = _changes(topology, begin, end)
        self.books = _Books([begin, *full_hours(begin, end, timezone), end])

    def run(self) -> Forecast:
        """Go from event to event until the horizon."""
        self._heed_windows()
        self._begin()
        while self.now < self.end:
            self._dispatch()
            self._pass_time(self._next_event())
            self._heed_windows()
            self._end_what_is_due()
        return self._forecast()

    # --- time -----------------------------------------------------------------------------------------------

    def _next_event(self) -> datetime:
        """When an attempt ends, a task may try again, a window changes or an hour is over."""
        instants = [self.books.hour_ends]
        if self.due:
            instants.append(self.due[0][0])
        if self.changes:
            instants.append(self.changes[-1])
        return min(instants)

    def _pass_time(self, until: datetime) -> None:
        """Book the time in which nothing changes."""
        waiting = sum(len(heap) for group, heap in self.ready.items() if group not in self.topology.paused)
        self.books.add(until, self.present, self.busy, waiting)
        self.now = until

    def _heed_windows(self) -> None:
        """Until the next change a server with windows is one without, which is quicker to ask."""
        if self.now == self.begin or (self.changes and self.changes[-1] <= self.now):
            while self.changes and self.changes[-1] <= self.now:
                self.changes.pop()
            fixed = (replace(each, threads=each.threads_now(self.now), windows=()) for each in self.topology.servers)
            self.present = replace(self.topology, servers=tuple(fixed))

    # --- what happens to tasks ------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Put the tasks where they are found; make ready what waits for nothing (rule 2)."""
        ended = []
        for number, standing in enumerate(self.tasks):
            found = standing.task.found
            standing.attempts = found.attempts
            if found.state in TERMINAL:
                standing.state, standing.ended_at = found.state, found.since
                ended.append(number)
            elif found.state is State.EXECUTING:
                self._go_on(number, found)
            elif found.state is not State.WAITING:
                self._make_ready(number, found.since or self.begin)
            elif not standing.task.after:
                self._make_ready(number, self.begin)
        self._settle(ended)

    def _go_on(self, number: int, found: Found) -> None:
        """An attempt that began before: it ends after its duration, or now if that is over."""
        assert found.server is not None
        self._occupy(number, found.server, found.since or self.begin)

    def _occupy(self, number: int, server: int, start: datetime) -> None:
        standing = self.tasks[number]
        standing.state, standing.server, standing.started_at = State.EXECUTING, server, start
        self.busy[server] += 1
        self.executing[number] = len(self.attempts)
        self.attempts.append(Attempt(number, self.topology.by_id[server].name, start, None))
        heappush(self.due, (max(self.now, start + SECOND * standing.task.seconds), number))

    def _make_ready(self, number: int, since: datetime) -> None:
        """Let the task queue up, at once or, after a delay, when that is over."""
        standing = self.tasks[number]
        standing.state, standing.ready_at = State.READY, since
        standing.server = standing.started_at = None
        if since > self.now:
            heappush(self.due, (since, number))
        else:
            heappush(self.ready[standing.task.group], (-standing.task.priority, since, number))

    def _dispatch(self) -> None:
        """Give the free threads to the best of what is ready, as `engine.dispatch` does (rules 10-13, 16, 28)."""
        waiting = [group for group, heap in self.ready.items() if heap]
        free = free_threads(self.present, self.busy, self.now) if waiting else {}
        most = candidates_wanted(waiting, {}, self.present, free)
        best = sorted(entry for group, limit in most.items() for entry in _best(self.ready[group], limit))
        candidates = [(entry, self.tasks[entry[-1]].task.group) for entry in best]
        admitted = admit(candidates, {}, self.present, free)
        shares = {server: Counter(share) for server, share in admitted.shares.items()}
        chosen = set(admitted.chosen)
        for entry, group in candidates:
            if entry in chosen:
                self._start(entry[-1], _answering(shares, group))
            else:
                heappush(self.ready[group], entry)

    def _start(self, number: int, server: int) -> None:
        standing = self.tasks[number]
        assert standing.ready_at is not None
        standing.waited += self.now - standing.ready_at
        standing.attempts += 1
        self._occupy(number, server, self.now)

    def _end_what_is_due(self) -> None:
        """End the attempts whose time is over, and what that decides; let tasks try again whose delay is over."""
        ended = []
        while self.due and self.due[0][0] <= self.now:
            _, number = heappop(self.due)
            standing = self.tasks[number]
            if standing.state is State.READY:
                self._make_ready(number, standing.ready_at or self.now)
            elif self._end(number):
                ended.append(number)
        self._settle(ended)

    def _end(self, number: int) -> bool:
        """End an attempt; whether it was the task's last (rule 30)."""
        standing, attempt = self.tasks[number], self.executing.pop(number)
        assert standing.server is not None
        self.busy[standing.server] -= 1
        self.attempts[attempt] = replace(self.attempts[attempt], end=self.now)
        task, canceling = standing.task, self.jobs[standing.job].canceling
        standing.state = after_attempt(
            ok=not task.fails, attempt=standing.attempts, retries=task.retries, canceling=canceling
        )
        if standing.state is State.READY:
            self._make_ready(number, self.now + SECOND * task.retry_delay)
            return False
        standing.ended_at = self.now
        return True

    def _settle(self, ended: list[int]) -> None:
        """Resolve the conditions on tasks that have ended, to a fixed point, and close runs that are through."""
        for number in ended:  # it grows meanwhile
            before = self.tasks[number]
            for successor, condition in self.successors.get(number, ()):
                moved = self._resolve(self.tasks[successor], resolution(condition.outcome, before.state))
                if moved is State.READY:
                    self._make_ready(successor, self.now)
                elif moved is State.DIDNT_RUN:
                    self.tasks[successor].state, self.tasks[successor].ended_at = moved, self.now
                    ended.append(successor)
            self.open_tasks[before.job] -= 1
            if not self.open_tasks[before.job]:
                self.closed_at[before.job] = self.now

    def _resolve(self, standing: _Standing, met: bool | None) -> State:
        """Count one condition; where it moves the task, WAITING if nowhere (rules 4, 5)."""
        standing.pending -= 1
        standing.met += met is True
        standing.impossible += met is False
        if standing.state is not State.WAITING:
            return State.WAITING
        return readiness(standing.task.join, standing.pending, standing.met, standing.impossible)

    # --- the result -----------------------------------------------------------------------------------------

    def _forecast(self) -> Forecast:
        return Forecast(
            self.begin,
            self.end,
            self.topology,
            tuple(self._close(job) for job in range(len(self.jobs))),
            tuple(map(self._planned, self.tasks)),
            tuple(self.attempts),
            tuple(self.books.hours),
        )

    def _planned(self, standing: _Standing) -> Planned:
        task, waited = standing.task, standing.waited
        if standing.state is State.READY and standing.ready_at is not None:
            waited += max(self.end - standing.ready_at, NO_TIME)
        return Planned(
            standing.job,
            task.name,
            task.group,
            task.seconds,
            standing.state,
            self.topology.by_id[standing.server].name if standing.server is not None else None,
            standing.attempts,
            standing.ready_at,
            standing.started_at,
            standing.ended_at,
            waited,
        )

    def _close(self, job: int) -> Close:
        closed_at = self.closed_at[job]
        if closed_at is None:
            return Close(self.jobs[job].name, None, None)
        ends = map(self._as_the_verdict_sees, self.numbers[job])
        return Close(self.jobs[job].name, verdict(ends, canceled=self.jobs[job].canceling), closed_at)

    def _as_the_verdict_sees(self, number: int) -> Ended:
        standing = self.tasks[number]
        handled = any(
            condition.handles and self.tasks[successor].state is State.SUCCESS
            for successor, condition in self.successors.get(number, ())
        )
        return Ended(standing.state, standing.task.ignore_failure, handled, standing.task.found.aborted)


class _Books:
    """Adds up thread-seconds hour by hour; `edges` are the ends of the hours, the begin being the first."""

    def __init__(self, edges: Sequence[datetime]) -> None:
        self.hours: list[Hour] = []
        self._start = self._now = edges[0]
        self._ends = list(reversed(edges[1:]))
        self._clear()

    @property
    def hour_ends(self) -> datetime:
        """When the present hour is over."""
        return self._ends[-1]

    def _clear(self) -> None:
        self._threads: defaultdict[str, float] = defaultdict(float)
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._idle = self._missing = 0.0

    def add(self, until: datetime, present: Topology, busy: Mapping[int, int], waiting: int) -> None:
        """Book what is so from the last instant `until` this one, which is not beyond the end of the hour."""
        seconds = (until - self._now).total_seconds()
        for server in present.servers if seconds else ():
            threads = server.threads_now(until)
            used = busy[server.id]
            self._threads[server.name] += threads * seconds
            self._busy[server.name] += used * seconds
            self._idle += max(0, threads - used) * seconds
        self._missing += waiting * seconds
        self._now = until
        if until == self._ends[-1]:
            hour = Hour(self._start, until, self._threads, self._busy, self._idle, self._missing)
            self.hours.append(hour)
            self._start = self._ends.pop()
            self._clear()


def _numbers(jobs: Sequence[Job]) -> list[range]:
    """The places of each job's tasks among all."""
    ends = [0, *accumulate(len(job.tasks) for job in jobs)]
    return [range(*both) for both in pairwise(ends)]


def _successors(jobs: Sequence[Job], numbers: Sequence[range]) -> dict[int, list[tuple[int, Condition]]]:
    """By the number of a task, the conditions on it and the numbers of the tasks that have them."""
    successors: defaultdict[int, list[tuple[int, Condition]]] = defaultdict(list)
    for job, places in zip(jobs, numbers, strict=True):
        number_of = {task.name: number for number, task in zip(places, job.tasks, strict=True)}
        for number, task in zip(places, job.tasks, strict=True):
            for condition in task.after:
                successors[number_of[condition.task]].append((number, condition))
    return successors


def _changes(topology: Topology, begin: datetime, end: datetime) -> list[datetime]:
    """When a server's number of threads changes after the begin, the earliest last."""
    starts = {
        period.start for server in topology.servers for period in periods(server.windows, server.threads, begin, end)
    }
    return sorted(starts - {begin}, reverse=True)


def _best(heap: list[Entry], limit: int) -> list[Entry]:
    """Take so many of the best off the heap."""
    return [heappop(heap) for _ in range(min(limit, len(heap)))]


def _answering(shares: Mapping[int, Counter[str]], group: str) -> int:
    """The first server with a thread for the group among its shares, which it uses up."""
    server = next(server for server, share in shares.items() if share[group] > 0)
    shares[server][group] -= 1
    return server
