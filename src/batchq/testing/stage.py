"""The stage: a rehearsal step by step, on a clock that moves only when it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from types import TracebackType
from typing import Self
from zoneinfo import ZoneInfo

from sqlalchemy import select

from batchq import actions, views
from batchq.core.states import LABELS, State
from batchq.core.topology import Topology
from batchq.core.windows import next_change
from batchq.errors import Conflict, InvalidInput
from batchq.store.columns import RUN, TASK, run_of
from batchq.store.find import newest_run
from batchq.store.moves import Start as Granted
from batchq.testing.cast import Cast, Start
from batchq.testing.clocked import START, in_memory
from batchq.testing.played import Played
from batchq.testing.script import (
    Durations,
    Failing,
    Failure,
    Script,
    Servers,
    Source,
    clock_time,
    in_utc,
    job_of,
    scripts,
    set_up,
)  # fmt: skip

DAY = timedelta(days=1)
YEAR = timedelta(days=366)
MOST_REASONS = 3
READY = (State.READY.value, State.QUEUED.value)
OPEN = (*READY, State.EXECUTING.value)

_UNFINISHED = select(RUN.id).where(RUN.ended_at.is_(None)).order_by(RUN.id)
_WAITING = select(TASK.ready_at, TASK.group_name).where(TASK.status.in_(READY)).distinct()


class Stage:
    """Servers and a database in memory, to rehearse jobs step by step: submit, end tasks, let time pass, look.

    After each step every task that can start does so at once. Operations are not executed: a task runs until `end`, or
    for the time in `durations`. Use the stage in a `with` block, or `close` it. `database` is for `batchq.actions`;
    `later()` then starts the tasks that an action allows.
    """

    def __init__(self, on: Servers | None = None, *, at: datetime = START) -> None:
        """Set the clock to `at` and start the servers of `on`, by default two of one thread each; see `play`."""
        document = set_up(on)
        self.database = in_memory(in_utc("at", at))
        self._zone = at.tzinfo
        self._cast = Cast(self.database)
        self._scripts: dict[int, Script] = {}
        self._ends: dict[str, tuple[datetime, Failure | None]] = {}  # of attempts that end by themselves, by token
        self._usual = False  # whether all attempts end by themselves
        actions.apply(self.database, document.model_copy(update={"jobs": {}}))
        self._start_servers()

    def close(self) -> None:
        """Close the database."""
        self.database.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- acts -----------------------------------------------------------------------------------------------

    def submit(self, job: Source, *, failing: Failing = (), durations: Durations | None = None) -> int:
        """Submit the job and start its ready tasks; returns the run's number.

        Tasks in `durations` end by themselves as time passes. Both options are those of `play`.
        """
        (script,) = scripts([job_of(job)], failing, durations)
        run = self._cast.submit(script.job)
        self._scripts[run] = script
        self._start_ready()
        return run

    def end(self, task: str, failure: Failure | None = None, *, run: int | None = None) -> None:
        """End an executing task with success or with a `failure`, and start the tasks that follow.

        Give the `run` if a task of that name executes in several. Raises Conflict, InvalidInput, or NotFound for an
        unknown task.
        """
        found = [(server, row) for server, row in self._cast.running() if row.name == task]
        if run is not None:
            found = [(server, row) for server, row in found if run_of(row.id) == run]
        if not found:
            raise Conflict(f"{task} does not execute: {self._standing(task, run)}.")
        if len(found) > 1:
            numbers = " and ".join(str(run_of(row.id)) for _, row in found)
            raise Conflict(f"{task} executes in the runs {numbers}. Say which one by `run`.")
        ((server, row),) = found
        if failure is not None:
            self._scripts[run_of(row.id)].check(task, failure)
        self._end(server, row, failure)
        self._start_ready()

    def cancel(self, run: int | None = None) -> int:
        """Cancel a run, by default the newest one; returns how many tasks are canceled now (rule 32)."""
        canceled = actions.cancel_run(self.database, self._number(run))["tasks"]
        self._start_ready()
        return canceled

    def play(self) -> None:
        """Let time jump from event to event until all runs have ended; a task takes its `duration`, or a minute.

        Raises Conflict with the reasons if that never happens, or takes more than a year.
        """
        self._usual = True
        last = self.database.shown + YEAR
        try:
            self._start_ready()
            while (upcoming := self._next()) is not None and upcoming <= last:
                self._jump(upcoming)
            if unfinished := self._unfinished():
                raise Conflict(self._why_unfinished(unfinished, upcoming))
        finally:
            self._usual = False

    # --- time -----------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The instant that the clock shows, in its zone."""
        return self.database.shown.astimezone(self._zone)

    def later(self, **units: float) -> None:
        """Let time pass, in the units of `timedelta`: `later(hours=2)`. Without units only start ready tasks."""
        self._move(self.database.shown + timedelta(**units))

    def at(self, instant: datetime | str) -> None:
        """Let time pass up to an instant, or up to the next `HH:MM` in the clock's zone."""
        to = self._next_time(clock_time(instant)) if isinstance(instant, str) else instant
        self._move(in_utc("at", to))

    def _next_time(self, clock: time) -> datetime:
        # A clock that goes back shows the time twice.
        times = (clock, clock.replace(fold=1))
        shown = (datetime.combine(self.now.date() + day, each, self._zone) for day in (0 * DAY, DAY) for each in times)
        return next(each for each in shown if each.astimezone(UTC) > self.database.shown)

    def _move(self, to: datetime) -> None:
        if to < self.database.shown:
            raise InvalidInput(f"Time does not go back: it is {self.now}, and {to.astimezone(self._zone)} is over.")
        self._start_ready()
        while (upcoming := self._next()) is not None and upcoming <= to:
            self._jump(upcoming)
        self._jump(to)

    def _jump(self, instant: datetime) -> None:
        """Set the clock, end the attempts that are due, and do a coordinator's work."""
        self.database.instant = instant
        for server, row in self._cast.running():
            due, failure = self._ends.get(row.token, (None, None))
            if due is not None and due <= instant:
                self._end(server, row, failure)
        self._cast.tick()
        self._deliver()

    def _next(self) -> datetime | None:
        """The next instant at which something happens by itself: a task ends or tries again, or threads change."""
        running = [self._ends[row.token][0] for _, row in self._cast.running() if row.token in self._ends]
        return min([*running, *self._changes()], default=None)

    def _changes(self) -> Iterator[datetime]:
        now = self.database.shown
        with self.database.read() as tx:
            rows = tx.execute(_WAITING).all()
            seen = self._cast.topology(tx) if rows else Topology(())
        yield from {row.ready_at for row in rows if row.ready_at > now}
        groups = {row.group_name for row in rows if row.ready_at <= now} - seen.paused
        for server in seen.servers:
            if server.enabled and server.alive and any(seen.serves(server, group) for group in groups):
                change = next_change(server.windows, server.threads, now)
                if change is not None:
                    yield change

    # --- what follows from an act ---------------------------------------------------------------------------

    def _start_servers(self) -> None:
        """Start each server that does not run yet; an action may have added one."""
        with self.database.read() as tx:
            names = [server.name for server in self._cast.topology(tx).servers]
        for name in names:
            if name not in self._cast.workers:
                self._cast.live(name)

    def _start_ready(self) -> None:
        self._start_servers()
        self._cast.forward()
        self._deliver()

    def _deliver(self) -> None:
        while self._cast.deliver():
            pass
        self._note_ends()

    def _note_ends(self) -> None:
        """Note the end of each attempt that ends by itself."""
        for _, row in self._cast.running():
            if row.token not in self._ends:
                script, start = self._scripts[run_of(row.id)], self._cast.started[row.token]
                if end := script.end(row.name, row.attempt, usual=self._usual):
                    due = start.at + timedelta(seconds=end[0])
                    self._ends[row.token] = max(due, self.database.shown), end[1]

    def _end(self, server: str, row: Granted, failure: Failure | None) -> None:
        if failure == "lost":
            self._cast.lose_attempts(server, [row.token])
            return
        self._cast.report(server, row, self._scripts[run_of(row.id)].report(row.name, failure))

    # --- looks ----------------------------------------------------------------------------------------------

    @property
    def executing(self) -> list[str]:
        """The tasks that execute, in the order of their starts."""
        return [row.name for _, row in self._cast.running()]

    @property
    def starts(self) -> list[Start]:
        """All starts of all runs, in their order."""
        return [self._shown(start) for start in self._cast.starts]

    def played(self, run: int | None = None) -> Played:
        """The result up to now of a run, by default of the newest one."""
        number = self._number(run)
        with self.database.read() as tx:
            view = views.run_view(tx, number, self.database.shown, timezone=self._timezone)
        return Played.of(view, [start for start in self.starts if start.run == number], self._zone)

    def states(self, run: int | None = None) -> dict[str, str]:
        """The state of each task of a run, by default of the newest one."""
        return dict(self.played(run).states)

    def verdict(self, run: int | None = None) -> str:
        """The status of a run, by default of the newest one."""
        return self.played(run).verdict

    def why(self, task: str, run: int | None = None) -> str | None:
        """Why a task waits or didn't run, in the words of `batchq runs show`; None if it started (rule 40)."""
        return self.played(run).why(task)

    @property
    def _timezone(self) -> str | None:
        return self._zone.key if isinstance(self._zone, ZoneInfo) else None

    def _shown(self, start: Start) -> Start:
        return replace(start, at=start.at.astimezone(self._zone))

    def _number(self, run: int | None) -> int:
        if run is not None:
            return run
        with self.database.read() as tx:
            newest = newest_run(tx)
        if newest is None:
            raise Conflict("No job has been submitted to this stage.")
        return newest

    def _standing(self, task: str, run: int | None) -> str:
        played = self.played(run)
        why = played.why(task)
        state = LABELS[played.states[task]]
        return f"{state}, {why}" if why else state

    def _unfinished(self) -> list[int]:
        with self.database.read() as tx:
            return list(tx.execute(_UNFINISHED).scalars())

    def _why_unfinished(self, runs: list[int], upcoming: datetime | None) -> str:
        played = [self.played(run) for run in runs]
        names = " and ".join(each.job for each in played)
        fact = "never ends" if upcoming is None else "does not end within a year"
        reasons = [
            f"{task} executes." if state == State.EXECUTING else f"{task} cannot start: {each.why(task)}."
            for each in played
            for task, state in each.states.items()
            if state in OPEN
        ]
        return " ".join([f"{names} {fact}.", *reasons[:MOST_REASONS]])
