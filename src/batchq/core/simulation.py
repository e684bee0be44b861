"""A simulation of the time to come: which task would start when and where, by the rules that decide it for real.

Conditions, windows, bindings, limits and the choice of candidates are those of `core.conditions`, `core.windows`,
`core.topology`, `core.limits` and `core.admission`. The only guess is how long each attempt takes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count

from batchq.core import retries
from batchq.core.admission import Matching, choose, free_threads, lanes_wanted
from batchq.core.conditions import Ended, moved, readiness, resolution, took_over, verdict
from batchq.core.limits import Lane, Units
from batchq.core.priority import AGING, in_order
from batchq.core.simulated import (
    Close,
    Entry,
    Found,
    Planned,
    SimAttempt,
    SimRun,
    Simulation,
    Standing,
    graph,
    lane_of,
    places,
)
from batchq.core.states import TERMINAL, State, after_attempt
from batchq.core.thread_hours import Books, full_hours, thread_changes
from batchq.core.topology import Topology

SECOND = timedelta(seconds=1)
NO_TIME = timedelta(0)


def simulate(
    topology: Topology,
    jobs: Sequence[SimRun],
    begin: datetime,
    end: datetime,
    timezone: str = "UTC",
    aging: float = AGING,
) -> Simulation:
    """Play the runs from `begin` to `end`, both aware, as if they were submitted at `begin` in this order.

    Every server counts as running. Hours are full on the clock in `timezone`, an IANA name; `begin` and `end` may
    cut the first and the last one. Tasks may end at the very `end`, but none starts then. A task that waits rises by a
    class each `aging` seconds.
    """
    running = replace(topology, servers=tuple(replace(server, alive=True) for server in topology.servers))
    return _Simulator(running, jobs, begin.astimezone(UTC), end.astimezone(UTC), timezone, aging).run()


class _Simulator:
    """All tasks and servers at one instant; `run` moves the instant from event to event."""

    def __init__(
        self, topology: Topology, jobs: Sequence[SimRun], begin: datetime, end: datetime, timezone: str, aging: float
    ) -> None:
        self.aging = aging
        self.topology = self.present = topology
        self.begin, self.now, self.end = begin, begin, end
        self.jobs = jobs
        self.numbers = places(jobs)
        self.graph = graph(jobs, self.numbers)
        self.tasks = [
            Standing(task, number, lane_of(task, number, topology), len(task.after))
            for number, task in self.graph.tasks
        ]
        self.open_tasks = Counter(number for number, _ in self.graph.tasks)
        self.closed_at: list[datetime | None] = [None] * len(jobs)
        self.ready: defaultdict[Lane, defaultdict[int, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        self.used: Counter[Lane] = Counter()
        self.due: list[tuple[datetime, int]] = []
        self.busy: Counter[int] = Counter()
        self.attempts: list[SimAttempt] = []
        self.steps = count(1)
        self.executing: dict[int, int] = {}
        self.changes = thread_changes(topology, begin, end)
        self.books = Books([begin, *full_hours(begin, end, timezone), end])

    def run(self) -> Simulation:
        """Go from event to event until the horizon."""
        self._heed_windows()
        self._begin()
        while self.now < self.end:
            self._dispatch()
            self._pass_time(self._next_event())
            self._heed_windows()
            self._end_due()
        return self._result()

    # --- time -----------------------------------------------------------------------------------------------

    def _next_event(self) -> datetime:
        """The next instant at which an attempt ends, a task tries again, a window changes or an hour is over."""
        instants = [self.books.hour_ends]
        if self.due:
            instants.append(self.due[0][0])
        if self.changes:
            instants.append(self.changes[-1])
        return min(instants)

    def _pass_time(self, until: datetime) -> None:
        """Book the time in which nothing changes."""
        paused = self.topology.paused
        waiting = sum(
            len(pile) for lane, piles in self.ready.items() if lane.group not in paused for pile in piles.values()
        )
        self.books.add(until, self.present, self.busy, waiting)
        self.now = until

    def _heed_windows(self) -> None:
        """Fix each server's threads until they change: judging its windows at every event would be slow."""
        if self.now == self.begin or (self.changes and self.changes[-1] <= self.now):
            while self.changes and self.changes[-1] <= self.now:
                self.changes.pop()
            servers = self.topology.servers
            fixed = (replace(each, threads=each.threads_now(self.now), windows=(), override=None) for each in servers)
            self.present = replace(self.topology, servers=tuple(fixed))

    # --- what happens to tasks ------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Put each task where it is found, and make tasks without conditions ready (rule 2)."""
        ended = []
        for number, standing in enumerate(self.tasks):
            found = standing.task.found
            standing.attempts = found.attempts
            if found.state in TERMINAL:
                standing.state, standing.ended_at = found.state, found.since
                ended.append(number)
            elif self.jobs[standing.job].canceling and found.state is not State.EXECUTING:
                standing.state, standing.ended_at = State.CANCELED, self.begin
                ended.append(number)
            elif found.state is State.EXECUTING:
                self._go_on(number, found)
            elif found.state is not State.WAITING:
                self._make_ready(number, found.since or self.begin)
            elif not standing.task.after and standing.task.gate:
                standing.state, standing.ended_at = State.SUCCESS, self.begin
                ended.append(number)
            elif not standing.task.after:
                self._make_ready(number, self.begin)
        self._settle(ended)

    def _go_on(self, number: int, found: Found) -> None:
        """Go on with an attempt that began before: it ends after its duration, or now if that is over."""
        assert found.server is not None
        self._occupy(number, found.server, found.since or self.begin)

    def _occupy(self, number: int, server: int, start: datetime) -> None:
        standing = self.tasks[number]
        standing.state, standing.server, standing.started_at = State.EXECUTING, server, start
        self.busy[server] += 1
        self.used[standing.lane] += 1
        self.executing[number] = len(self.attempts)
        self.attempts.append(SimAttempt(number, self.topology.by_id[server].name, start, None))
        heappush(self.due, (max(self.now, start + SECOND * standing.task.seconds), number))

    def _make_ready(self, number: int, since: datetime) -> None:
        """Let the task queue up now, or at `since` if that is still to come."""
        standing = self.tasks[number]
        standing.state, standing.ready_at = State.READY, since
        standing.server = standing.started_at = None
        if since > self.now:
            heappush(self.due, (since, number))
        else:
            self._queue_up(Entry(since, number, standing.task.priority))

    def _queue_up(self, entry: Entry) -> None:
        heappush(self.ready[self.tasks[entry.id].lane][entry.own_class], entry)

    def _dispatch(self) -> None:
        """Give the free threads to the best ready tasks, as the engine's dispatch does (rules 10-13, 16, 28, 29)."""
        waiting = [lane for lane, piles in self.ready.items() if any(piles.values())]
        free = free_threads(self.present, self.busy, self.now) if waiting else {}
        if not free:
            return
        units, matching = Units(self.present, self.used), Matching(self.present, free)
        wanted = lanes_wanted(waiting, matching, units, self.now)
        heads = [
            entry for lane, most in wanted.items() for pile in self.ready[lane].values() for entry in _best(pile, most)
        ]
        best = in_order(heads, self.now, self.aging)
        patience = SECOND * (self.aging or AGING)
        lanes = {entry: self.tasks[entry.id].lane for entry in best}
        offered = [
            (entry, lanes[entry], bool(lanes[entry].keys) and self.now - entry.ready_at >= patience) for entry in best
        ]
        admitted = choose(offered, matching, units)
        shares = {server: Counter(share) for server, share in admitted.shares.items()}
        chosen = set(admitted.chosen)
        for entry in best:
            if entry in chosen:
                self._start(entry.id, _answering(shares, lanes[entry].group))
            else:
                self._queue_up(entry)

    def _start(self, number: int, server: int) -> None:
        standing = self.tasks[number]
        assert standing.ready_at is not None
        standing.waited += self.now - standing.ready_at
        standing.attempts += 1
        standing.start = next(self.steps)
        self._occupy(number, server, self.now)

    def _end_due(self) -> None:
        """End the attempts whose time is over and settle their tasks; let tasks try again after their delay."""
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
        """End an attempt, and say whether it was the task's last (rule 30)."""
        standing, attempt = self.tasks[number], self.executing.pop(number)
        assert standing.server is not None
        self.busy[standing.server] -= 1
        self.used[standing.lane] -= 1
        self.attempts[attempt] = replace(self.attempts[attempt], end=self.now)
        task, canceling = standing.task, self.jobs[standing.job].canceling
        retry = standing.attempts - task.found.retried_at
        standing.state = after_attempt(ok=not task.fails, attempt=retry, retries=task.retries, canceling=canceling)
        if standing.state is State.READY:
            self._make_ready(number, self.now + SECOND * retries.wait(retry, task.retry_delay, task.policy))
            return False
        standing.ended_at, standing.end = self.now, next(self.steps)
        return True

    def _settle(self, ended: list[int]) -> None:
        """Resolve the conditions on ended tasks to a fixed point, and close runs whose tasks have all ended."""
        for number in ended:  # it grows: a task that didn't run ends here too, and a gate
            before = self.tasks[number]
            for successor, condition in self.graph.followers.get(number, ()):
                state = self._resolve(self.tasks[successor], resolution(condition.outcome, before.state))
                if state is State.READY:
                    self._make_ready(successor, self.now)
                elif state is not State.WAITING:
                    self.tasks[successor].state, self.tasks[successor].ended_at = state, self.now
                    ended.append(successor)
            self.open_tasks[before.job] -= 1
            if not self.open_tasks[before.job]:
                self.closed_at[before.job] = self.now

    def _resolve(self, standing: Standing, met: bool | None) -> State:
        """Count one condition; return the state that it moves the task to, WAITING if it moves nothing (rules 4, 5)."""
        standing.pending -= 1
        standing.met += met is True
        standing.impossible += met is False
        if standing.state is not State.WAITING:
            return State.WAITING
        state = readiness(standing.task.join, standing.pending, standing.met, standing.impossible)
        return moved(state, gate=standing.task.gate)

    # --- the result -----------------------------------------------------------------------------------------

    def _result(self) -> Simulation:
        return Simulation(
            self.begin,
            self.end,
            self.topology,
            tuple(self._close(job) for job in range(len(self.jobs))),
            tuple(map(self._planned, self.tasks[: sum(map(len, self.numbers))])),
            tuple(self.attempts),
            tuple(self.books.hours),
        )

    def _planned(self, standing: Standing) -> Planned:
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
            self._handles(self.tasks[handler], standing, behind=behind)
            for handler, behind in self.graph.handlers.get(number, ())
        )
        return Ended(standing.state, standing.task.ignore_failure, handled, standing.task.found.aborted)

    @staticmethod
    def _handles(handler: Standing, failed: Standing, *, behind: bool) -> bool:
        if handler.state is not State.SUCCESS or failed.ended_at is None:
            return False
        started = handler.started_at or handler.task.found.started
        moment = (started, handler.start) if started else None
        return took_over((failed.ended_at, failed.end), moment, behind=behind)


def _best(heap: list[Entry], most: int) -> list[Entry]:
    """Take up to `most` of the best entries off the heap."""
    return [heappop(heap) for _ in range(min(most, len(heap)))]


def _answering(shares: Mapping[int, Counter[str]], group: str) -> int:
    """The first server whose share still answers the group; takes one thread off that share."""
    server = next(server for server, share in shares.items() if share[group] > 0)
    shares[server][group] -= 1
    return server
