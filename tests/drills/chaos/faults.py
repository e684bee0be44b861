"""The faults: each strikes an installation, and says by what it is to be seen that the work goes on.

A fault is a function of the surgeon's; what it returns is struck already, and has recovered once `over()` is true,
counted from `since`: from the blow, or from when what was taken away is back.
"""

from __future__ import annotations

import heapq
import math
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import psutil
from sqlalchemy.exc import SQLAlchemyError

from batchq import Job
from batchq.errors import BatchqError
from drills.chaos.installation import COORDINATORS, OPEN_TASKS, Check, Installation
from support.brokers import Valkey
from support.site import BROKER

LOCK_SECONDS = 10.0
JUMPS = (1.0, -1.0, 60.0, -60.0, 3600.0, -3600.0, 86400.0, -86400.0)
FULL_SECONDS = 3.0
# What a database may still have room for in its own files must be used up first.
MOST_TOO_MUCH, TOO_MUCH_TASKS, TOO_MUCH_CHARACTERS = 25, 10, 40_000
FILL_SECONDS = 0.4
NUMBERS = count()


@dataclass
class Blow:
    """A fault that was done: `kind` is its row in the table, `over` is asked from `since` on (monotonic seconds).

    What `lasts` goes on for so many seconds, and `meanwhile` tells what should have been done before it is over, and
    was not. To see what is over with a `calm` one, nobody else may submit anything.
    """

    kind: str
    subject: str
    since: float
    over: Check | None
    then: Callable[[], None] = lambda: None
    lasts: float = 0.0
    calm: bool = False
    meanwhile: Callable[[], str] | None = None


@dataclass
class Surgeon:
    """Does faults to a site; what is to be done later, it does in `attend`. `alone` says that none meets another."""

    site: Installation
    rng: random.Random
    longest_stop: float
    longest_silence: float
    alone: bool
    full_seconds: float = FULL_SECONDS
    later: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    timers: list[threading.Timer] = field(default_factory=list)

    # --- the time between -----------------------------------------------------------------------------------

    def attend(self, *, everything: bool = False) -> None:
        """Do what is due; or all that was put off."""
        while self.later and (everything or self.later[0][0] <= time.monotonic()):
            heapq.heappop(self.later)[2]()
        for timer in self.timers if everything else ():
            if timer.is_alive():
                timer.cancel()
                timer.function()
        self.site.look_for_exits()
        self.site.started.look()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.later, (time.monotonic() + seconds, next(NUMBERS), act))

    def works(self, *, since: float, servers: list[str] | None = None) -> Check | None:
        """Whether every server that is there has started something since; None if there may be none that could."""
        names = servers or [name for name in self.site.servers if name in self.site.processes]
        if self.site.windows:  # the last one may be closed
            names = [name for name in names if name != list(self.site.servers)[-1]]
        return (lambda: all(self.site.started.last.get(name, 0.0) > since for name in names)) if names else None

    def hears(self, since: float) -> Check:
        """Whether every server has since taken what was sent to it: once all are idle, work comes by tickets only."""
        mark = [math.inf]

        def over() -> bool:
            works = self.works(since=mark[0])
            if works is None or works():
                return works is not None
            rows = self.site.rows(OPEN_TASKS) if time.monotonic() > since else None
            if rows and rows[0][0] <= 1:  # the probe is always there
                mark[0] = time.monotonic()
                with suppress(BatchqError, SQLAlchemyError):
                    self.site.submit(no_ops("FILL", sum(self.site.servers.values()), seconds=FILL_SECONDS))
            return False

        return over

    def for_a_while(self, kind: str, subject: str, seconds: float, undo: Callable[[], object]) -> Blow:
        """What was done is undone after so many seconds, and is over once every server hears what it is sent."""
        blow = Blow(kind, f"{subject}{seconds:.1f} s", math.inf, lambda: False, lasts=seconds, calm=True)

        def end() -> None:
            undo()
            back = time.monotonic()
            blow.over = self.hears(back)
            blow.since = back

        # In a thread: whoever asks a database that stands still could not wake it.
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        self.timers = [each for each in self.timers if each.is_alive()] + [timer]
        return blow

    def wait(self, seconds: float) -> None:
        """See to what happens meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.attend()
            time.sleep(0.02)

    def seconds(self, least: float, most: float) -> float:
        """Often short, at times long."""
        most = min(most, self.longest_silence)
        return math.exp(self.rng.uniform(math.log(min(least, most)), math.log(most)))

    @property
    def broker_stands(self) -> bool:
        """Whether the broker is there, and is not stopped."""
        with suppress(KeyError, psutil.Error):
            return psutil.Process(self.site.processes[BROKER].pid).status() != psutil.STATUS_STOPPED
        return False

    def _server(self, *, busy: bool = False) -> str | None:
        """One of those that are there; if it is to be `busy`, one that executes something."""
        running = [name for name in self.site.servers if name in self.site.processes]
        if busy:
            running = [name for name in running if self.site.executing(name)]
        return self.rng.choice(running) if running else None

    # --- processes ------------------------------------------------------------------------------------------

    def kill_child(self) -> Blow | None:
        """Of a pool, while it runs a task."""
        pools = {pid for name in self.site.servers for pid in self.site.pool(name)}
        self.site.started.look()
        running = [line for line in self.site.started.running.values() if line["pid"] in pools]
        if not running:
            return None
        line = self.rng.choice(running)
        with suppress(ProcessLookupError):
            os.kill(line["pid"], signal.SIGKILL)
        at = time.monotonic()
        self.site.fault("child killed", hits=[line["pid"]])
        self.site.started.running = {
            key: each for key, each in self.site.started.running.items() if each["pid"] != line["pid"]
        }
        sql = """SELECT 1 FROM batchq_attempt JOIN batchq_task ON id = task_id
                 WHERE run_id = :run AND name = :task AND batchq_attempt.attempt = :attempt"""
        facts = {name: line[name] for name in ("run", "task", "attempt")}
        return Blow("child killed", line["server"], at, lambda: bool(self.site.rows(sql, **facts)))

    def _kill(self, kind: str, name: str) -> Blow:
        """Recovered when the outcomes are in SQL of all that it leaves behind."""
        pool = sorted(self.site.pool(name))
        self.site.kill(name)
        at = time.monotonic()
        self.site.fault(kind, hits=[name, *pool])
        running = self.site.started.running
        self.site.started.running = {key: line for key, line in running.items() if line["server"] != name}
        left = self.site.executing(name)
        subject = f"{name}, {len(left)} attempts left behind"
        return Blow(kind, subject, at, (lambda: self.site.stored(left)) if left else None)

    def kill_server(self) -> Blow | None:
        """And start it again at once, under the same name."""
        if (name := self._server(busy=True)) is None:
            return None
        blow = self._kill("server killed, started again", name)
        self.site.restart(name)
        return blow

    def lose_server(self) -> Blow | None:
        """It stays dead until the others have given it up."""
        if (name := self._server(busy=True)) is None:
            return None
        blow = self._kill("server lost", name)
        self.after(self.site.lost_seconds + 10, lambda: self.site.restart(name))
        blow.then = lambda: self.site.restart(name)
        return blow

    def kill_coordinator(self) -> Blow | None:
        """One of two."""
        running = [name for name in COORDINATORS if name in self.site.processes]
        if not running:
            return None
        name = self.rng.choice(running)
        self.site.kill(name)
        at = time.monotonic()
        self.site.fault("coordinator killed")
        over = self.site.ticked if self.site.hold_tick() else None
        self.after(5, lambda: self.site.restart(name))
        return Blow("coordinator killed", name, at, over, lambda: self.site.restart(name))

    # --- what stands still ----------------------------------------------------------------------------------

    def _still(self, kind: str, processes: list[psutil.Process], seconds: float, hits: list[int | str]) -> float:
        """Stop these for so long; returns when they go on."""
        for process in processes:
            with suppress(psutil.Error):
                process.suspend()
        self.site.fault(kind, seconds, hits)

        # In a thread: whoever asks a database that stands still could not wake it.
        timer = threading.Timer(seconds, resume, [processes])
        timer.daemon = True
        timer.start()
        return time.monotonic() + seconds

    def _seconds(self) -> float:
        """Often short, at times long."""
        return math.exp(self.rng.uniform(0.0, math.log(self.longest_stop)))

    def stop_server(self, seconds: float | None = None) -> Blow | None:
        """Its main process; its children go on."""
        if (name := self._server()) is None:
            return None
        seconds = seconds or self._seconds()
        hits: list[int | str] = [name] if seconds > self.site.lost_seconds / 2 else []
        process = psutil.Process(self.site.processes[name].pid)
        back = self._still("server stopped", [process], seconds, hits)
        return Blow("server stopped", f"{name}, {seconds:.1f} s", back, self.works(since=back, servers=[name]))

    def stop_server_for_long(self) -> Blow | None:
        """Until it counts as lost."""
        return self.stop_server(self.site.lost_seconds + 4)

    def stop_coordinator(self) -> Blow | None:
        running = [name for name in COORDINATORS if name in self.site.processes]
        if not running:
            return None
        name, seconds = self.rng.choice(running), self._seconds()
        back = self._still("coordinator stopped", [psutil.Process(self.site.processes[name].pid)], seconds, [])
        over = self.site.ticked if self.site.hold_tick() else None
        return Blow("coordinator stopped", f"{name}, {seconds:.1f} s", back, over)

    def stop_child(self) -> Blow | None:
        """Of a pool, while it runs a task."""
        pools = {pid for name in self.site.servers for pid in self.site.pool(name)}
        running = [(key, line) for key, line in self.site.started.running.items() if line["pid"] in pools]
        if not running:
            return None
        (key, line), seconds = self.rng.choice(running), self._seconds()
        with suppress(psutil.Error):
            back = self._still("child stopped", [psutil.Process(line["pid"])], seconds, [])
            started = self.site.started
            return Blow("child stopped", f"{line['server']}, {seconds:.1f} s", back, lambda: key not in started.running)
        return None

    # --- the broker -----------------------------------------------------------------------------------------

    def _tickets(self, kind: str, subject: str = "") -> Blow:
        """The work goes on once all that was out has been claimed, and every server has started something."""
        back = time.monotonic()
        out = self.site.tickets_out()
        works = self.works(since=back)
        return Blow(
            kind, subject or f"{len(out)} tickets out", back, lambda: not out & self.site.tickets_out() and works()
        )

    def empty_broker(self) -> Blow:
        """Killed, and started again with nothing in it."""
        self.site.fault("broker restarted empty")
        if BROKER in self.site.processes:
            self.site.kill(BROKER)
        self.site._broker.empty()
        self.site._start(BROKER, self.site._broker.argv, self.site._broker.env)
        while not self.site._broker.answers():
            time.sleep(0.02)
        return self._tickets("broker restarted empty")

    def flush_broker(self) -> Blow | None:
        """All that waits in it is gone, on Valkey all else too."""
        self.site.fault("broker flushed")
        with suppress(OSError, BatchqError):
            self.site.flush_broker()
            return self._tickets("broker flushed")
        return None

    def delete_queue(self) -> Blow | None:
        """The queue of a group, with all who listen to it."""
        group = self.rng.choice(["default", "BG1"])
        self.site.fault("queue deleted")
        with suppress(OSError), self.site.batch.app.connection_for_write(connect_timeout=2) as connection:
            if isinstance(self.site._broker, Valkey):
                self.site.broker("DEL", self.site.batch.settings.queue(group))
            else:
                connection.channel().queue_delete(self.site.batch.settings.queue(group))
            return self._tickets("queue deleted", group)
        return None

    # --- the database ---------------------------------------------------------------------------------------

    def restart_database(self) -> Blow | None:
        if self.site.postgres is None:
            return None
        self.site.fault("PostgreSQL restarted, immediate")
        at = time.monotonic()
        self.site.postgres.restart()
        away = time.monotonic() - at
        return Blow("PostgreSQL restarted, immediate", f"{away:.2f} s away", at, self.works(since=at + 0.05))

    def end_backends(self) -> Blow | None:
        if self.site.postgres is None:
            return None
        number = self.site.postgres.terminate()
        at = time.monotonic()
        self.site.fault("backends terminated")
        return Blow("backends terminated", f"{number} of them", at, self.works(since=at))

    def lock_database(self) -> Blow:
        """Somebody else holds a lock for 10 s: on SQLite all there is, on PostgreSQL a table or the dispatch row."""
        locks = [
            "SELECT 1 FROM batchq_dispatch FOR UPDATE",
            "LOCK TABLE batchq_task IN EXCLUSIVE MODE",
            "LOCK TABLE batchq_server IN EXCLUSIVE MODE",
        ]
        what = self.rng.choice(locks) if self.site.postgres else "BEGIN IMMEDIATE"
        self.site.fault("lock held 10 s", LOCK_SECONDS)
        blow = Blow("lock held 10 s", what, time.monotonic() + LOCK_SECONDS, lambda: False)

        def hold() -> None:
            with suppress(Exception):  # another fault may end the one who holds it
                self._hold(what)
            blow.since = time.monotonic()
            blow.over = self.works(since=blow.since)

        threading.Thread(target=hold, daemon=True).start()
        return blow

    def _hold(self, what: str) -> None:
        if self.site.postgres:
            with self.site.postgres.connect() as connection, connection.transaction():
                connection.execute(what)
                time.sleep(LOCK_SECONDS)
        else:
            file = self.site.database.url.database
            assert file is not None
            connection = sqlite3.connect(file, timeout=30, isolation_level=None)
            try:
                connection.execute(what)
                time.sleep(LOCK_SECONDS)
                connection.execute("ROLLBACK")
            finally:
                connection.close()

    def fill_disk(self) -> Blow | None:
        """New work is refused, and the refusal says why; what runs waits until there is room again."""
        if not self.site.disk.mounted:
            return None
        self.site.fault("disk full", self.full_seconds)
        self.site.disk.fill()
        over = time.monotonic() + self.full_seconds
        refusals: list[str] = []
        for _ in range(MOST_TOO_MUCH):
            refusals += self._refused()
            if time.monotonic() > over:
                break
        self.site.disk.free()
        back = time.monotonic()
        # Where other faults are at work at the same time, it may be the broker that is missed, or all of the database.
        others = ["broker"] if self.alone else ["broker", "does not answer"]
        self.said += [f"disk full: {said}" for said in refusals if not _has(said, "Free some room", *others)]
        return Blow("disk full", f"{len(refusals)} jobs refused", back, self.works(since=back))

    def _refused(self) -> list[str]:
        """Submit more than there is room for; returns what was said if it was refused."""
        job = Job("TOO MUCH")
        for number in range(TOO_MUCH_TASKS):
            job.task(f"task {number}", "ledger.work", kwargs={"result": "-" * TOO_MUCH_CHARACTERS})
        try:
            self.site.submit(job)
        except BatchqError as error:
            time.sleep(0.3)
            return [str(error)]
        return []

    # --- the clock ------------------------------------------------------------------------------------------

    def jump(self, by: float | None = None) -> Blow:
        """The wall clock of all processes, by a second up to a day; every other time back to where it was."""
        by = -self.site.ahead or by or self.rng.choice(JUMPS)
        self.site.set_clock(self.site.ahead + by)
        at = time.monotonic()
        self.site.fault("clock set")
        return Blow("clock set", f"{by:+g} s", at, self.site.ticked if self.site.hold_tick() else None)

    def jump_a_day(self) -> Blow:
        """And the next time back."""
        return self.jump(86400.0)


def _has(said: str, *words: str) -> bool:
    return any(word in said for word in words)


def resume(processes: Iterable[psutil.Process]) -> None:
    """Let them go on, those that are still there."""
    for process in processes:
        with suppress(psutil.Error):
            process.resume()


def no_ops(name: str, count: int, seconds: float = 0.0) -> Job:
    """So many tasks that do nothing, each for so many seconds."""
    job = Job(name)
    for number in range(count):
        job.task(f"task {number}", "ledger.work", kwargs={"seconds": seconds})
    return job
