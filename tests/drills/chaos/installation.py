"""The installation that is hurt: its servers, two coordinators, a broker and a database; and what shows of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from batchq import Job, actions
from batchq.errors import BatchqError
from drills.chaos import app, hostile
from drills.chaos.disk import SmallDisk
from drills.chaos.doors import Doors
from drills.chaos.network import Network
from drills.chaos.postgres import Postgres
from support import checker
from support.brokers import Valkey
from support.site import BROKER, Site

COORDINATORS = ("coordinator 1", "coordinator 2")
GROUPS = ("default", "default", "BG1")
# The group of a task that stays ready, since its only server never starts: by it a tick shows.
NOBODY = "nobody"
OPEN_TASKS = "SELECT count(*) FROM batchq_task WHERE status IN ('waiting', 'ready', 'queued', 'executing')"
CALM_SECONDS = 60.0
# The exit code of what finds database or broker away, and how long it may take a process to begin.
AWAY, BORN_SECONDS = 4, 30.0


class Installation(Site):
    """A site on which faults are played; `lost_seconds` is the silence after which a server counts as lost."""

    least_free = 96 * 2**20

    def __init__(
        self,
        folder: Path,
        *,
        disk: SmallDisk,
        broker_disk: SmallDisk,
        network: Network,
        postgres: Postgres | None,
        broker: str,
        servers: int,
        threads: int,
        lost_seconds: float,
        windows: bool = False,
        copies: bool = True,
        behind_doors: bool = True,
    ) -> None:
        self._clock = folder / "clock"
        self.disk = disk
        self.broker_disk = broker_disk
        self.network = network
        self.postgres = postgres
        file = (disk.room_for("sqlite") if disk.mounted else folder) / "batchq.db"
        url = postgres.url if postgres else f"sqlite:///{file}"
        super().__init__(folder, app="drills.chaos.app", broker=broker, database_url=url, lost_seconds=lost_seconds)
        hostile.register(self.batch.app)
        self._make_unkind()
        # This process belongs to the installation as well: it submits.
        os.environ |= {app.CLOCK: str(self._clock)} | ({app.COPIES: "1"} if copies else {})
        self.env |= {name: os.environ[name] for name in (app.CLOCK, app.COPIES) if name in os.environ}
        app.begin()
        self.lost_seconds = lost_seconds
        self.servers = {f"AOS{number}": threads for number in range(1, servers + 1)}
        self._open_doors(behind_doors)
        self.windows = windows
        self.exits: list[str] = []
        self.unborn = 0
        self._born: dict[str, float] = {}
        self.ahead = 0.0
        self.started = Started(self._ledger)
        self.probe = 0
        self._offset = time.time() - time.monotonic()
        # Not the site's own: what looks must never wait for what is looked at.
        self._engine = create_engine(url, poolclass=NullPool, connect_args=_at_once(postgres))

    def _make_unkind(self) -> None:
        """Let the broker be one that can refuse."""
        if isinstance(self._broker, Valkey):
            self._broker.argv += ["--enable-protected-configs", "yes", "--enable-debug-command", "yes"]
        elif self.broker_disk.mounted:
            self._broker.stay_on(self.broker_disk.room_for("rabbitmq"), self.least_free)

    def _open_doors(self, wanted: bool) -> None:
        """The first server has a network of its own, the second one and a coordinator reach all past the doors."""
        names = [*self.servers, *COORDINATORS] if wanted else []
        self.behind_doors = [name for name in names if name not in (list(self.servers)[1], COORDINATORS[1])]
        self.outside = next(iter(self.servers)) if self.network.made else None
        addresses = ["127.0.0.1", *([self.network.address] if self.network.made else [])]
        self.broker_doors = self._ends.enter_context(Doors(self._broker.target, addresses, self._broker.url_at))
        self.database_doors = None
        if self.postgres:
            doors = Doors(self.postgres.target, addresses, self.postgres.url_at)
            self.database_doors = self._ends.enter_context(doors)

    # --- up and down ----------------------------------------------------------------------------------------

    def start(self, name: str, *words: str, **env: str) -> subprocess.Popen[bytes]:
        """Start `batchq …` as the site does; what is behind the doors finds broker and database there."""
        argv = [sys.executable, "-m", "batchq", *words]
        if name in self.behind_doors:
            outside = name == self.outside
            argv = [*(self.network.argv if outside else ()), *argv]
            address = self.network.address if outside else "127.0.0.1"
            env = {"BATCHQ_BROKER_URL": self.broker_doors.url(address)} | env
            if self.database_doors:
                env = {"BATCHQ_DATABASE_URL": self.database_doors.url(address)} | env
        return self._start(name, argv, env)

    def open(self) -> None:
        """Set it up, and start everything."""
        with self._engine.begin() as tx:
            checker.watch(tx)
            refuse_poison(tx)
        self.apply(self._setup())
        self.start_broker()
        for name in COORDINATORS:
            self.start_coordinator(name)
        self.start_servers(list(self.servers))
        self.probe = self.submit(f"job: PROBE\ntasks: {{TICK: {{run: ledger.work, group: {NOBODY}}}}}")

    def _setup(self) -> str:
        """The second server is bound to BG1 and the default group; the last one may have windows."""
        lines = [f"  {name}: {{threads: {threads}}}" for name, threads in self.servers.items()]
        name, last = list(self.servers)[1], list(self.servers)[-1]
        lines[1] = f"  {name}: {{threads: {self.servers[name]}, groups: [BG1, default]}}"
        if self.windows:
            lines[-1] = f"  {last}: {{windows: [{', '.join(_windows(self.servers[last]))}]}}"
        return "\n".join(["servers:", *lines, f"  NOBODY: {{threads: 0, groups: [{NOBODY}]}}"])

    def close(self) -> None:
        """Stop everything; nothing of it is left."""
        self.go_on()
        self._engine.dispose()
        super().close()

    def go_on(self) -> None:
        """Whatever stands still."""
        self.network.mend()
        for doors in filter(None, (self.broker_doors, self.database_doors)):
            doors.resume()
        for process in [*self.alive(), *(self.postgres.processes() if self.postgres else ())]:
            with suppress(psutil.Error):
                process.resume()

    def restart(self, name: str) -> None:
        """Start a server or coordinator that does not run, as whatever supervises it would."""
        if name not in self.processes:
            self._born[name] = time.monotonic()
            (self.start_coordinator if name in COORDINATORS else self._start_server)(name)

    def _start_server(self, name: str) -> None:
        self.start_server(name, wait=False)

    def look_for_exits(self) -> None:
        """Write down what ended although nobody ended it, and start it again.

        One that cannot begin, as database or broker are away, says so and ends; it is started again, and counted.
        """
        for name, process in list(self.processes.items()):
            if process.poll() is None:
                continue
            del self.processes[name]
            if process.returncode == AWAY and time.monotonic() - self._born.get(name, 0.0) < BORN_SECONDS:
                self.unborn += 1
            else:
                self.exits.append(f"{name} ended by itself, with {process.returncode}")
            if name != BROKER:
                self.restart(name)

    def fault(self, kind: str, seconds: float = 0.0, hits: list[int | str] | None = None) -> None:
        """Write down what is done, and whom it may cost an attempt."""
        self.note("fault", kind=kind, until=time.monotonic() + seconds, hits=hits or [])

    def set_clock(self, ahead: float) -> None:
        """Let the wall clock jump, everywhere."""
        if self.postgres:
            self.postgres.set_clock(ahead)
        self.ahead = ahead
        self.note("clock", offset=self._offset + ahead)
        beside = self._clock.with_suffix(".new")
        beside.write_text(str(ahead))
        beside.rename(self._clock)

    # --- what shows -----------------------------------------------------------------------------------------

    def rows(self, sql: str, **values: Any) -> list[Any] | None:
        """What the database answers, or None while it does not."""
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(text(sql), values))
        except SQLAlchemyError:
            return None

    def executing(self, server: str) -> list[tuple[int, int]]:
        """Task and attempt of all that the books have as executing there."""
        sql = """SELECT task.id, attempt FROM batchq_task task JOIN batchq_server server ON server.id = server_id
                 WHERE status = 'executing' AND server.name = :server"""
        return [(row.id, row.attempt) for row in self.rows(sql, server=server) or ()]

    def stored(self, attempts: list[tuple[int, int]]) -> bool:
        """Whether the outcome of each of these is in SQL."""
        sql = "SELECT 1 FROM batchq_attempt WHERE task_id = :task AND attempt = :attempt"
        return all(self.rows(sql, task=task, attempt=attempt) for task, attempt in attempts)

    def tickets_out(self) -> set[tuple[int, int]]:
        """Task and number of attempts so far of all that is queued."""
        rows = self.rows("SELECT id, attempt FROM batchq_task WHERE status = 'queued'")
        return {(row.id, row.attempt) for row in rows or ()}

    def hold_tick(self) -> bool:
        """Let the probe wait for an instant far ahead: only a tick brings that back; returns whether it waits."""
        far = datetime.now(UTC) + timedelta(days=400)
        sql = text("UPDATE batchq_task SET ready_at = :far WHERE run_id = :run AND status = 'ready'")
        values = {"far": far if self.postgres else far.replace(tzinfo=None), "run": self.probe}
        with suppress(SQLAlchemyError), self._engine.begin() as tx:
            return bool(tx.execute(sql, values).rowcount)  # type: ignore[attr-defined]
        return False

    def ticked(self) -> bool:
        """Whether a tick came since `hold_tick`."""
        rows = self.rows("SELECT ready_at FROM batchq_task WHERE run_id = :run", run=self.probe)
        if not rows:
            return False
        at = rows[0].ready_at
        at = datetime.fromisoformat(at) if isinstance(at, str) else at
        return bool(at.replace(tzinfo=UTC) < datetime.now(UTC) + timedelta(days=300))

    def pool(self, server: str) -> set[int]:
        """The children of a server's pool."""
        if server not in self.processes:
            return set()
        with suppress(psutil.Error):
            return {child.pid for child in self.children(server)}
        return set()

    def tickets(self) -> dict[str, int]:
        """What came of the tickets that reached the servers, as `celery inspect stats` shows it."""
        inspect = self.batch.app.control.inspect(timeout=3, limit=len(self.servers) + len(COORDINATORS))
        counts: defaultdict[str, int] = defaultdict(int)
        for stats in (inspect.stats() or {}).values():
            for word in ("arrived", "stale", "parked", "returned"):
                counts[word] += stats.get("batchq", {}).get(word, 0)
        return dict(counts)

    # --- the end --------------------------------------------------------------------------------------------

    def calm(self) -> float | None:
        """After the faults: until every task is terminal; returns how long that took, None if it was too long."""
        actions.cancel_run(self.database, self.probe)
        self.note("canceled", run=self.probe)
        began = time.monotonic()
        while time.monotonic() - began < CALM_SECONDS:
            self.look_for_exits()
            if (rows := self.rows(OPEN_TASKS)) and not rows[0][0]:
                return time.monotonic() - began
            time.sleep(0.1)
        return None


# The reasons for which databases refuse: a constraint, and a character that their encoding lacks.
_REFUSE = {
    "postgresql": f"""
        ALTER TABLE batchq_task ADD CHECK (result NOT LIKE '%{hostile.POISON}%');
        CREATE FUNCTION chaos_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'character with no equivalent in the encoding' USING ERRCODE = '22P05';
        END $$;
        CREATE TRIGGER chaos_refuse BEFORE INSERT OR UPDATE ON batchq_attempt FOR EACH ROW
        WHEN (concat(new.error, new.log) LIKE '%{hostile.POISON}%') EXECUTE FUNCTION chaos_refuse()
    """,
    "sqlite": f"""
        CREATE TRIGGER chaos_refuse_result BEFORE UPDATE ON batchq_task WHEN instr(new.result, '{hostile.POISON}')
        BEGIN SELECT RAISE(ABORT, 'the result is refused')\\; END;
        CREATE TRIGGER chaos_refuse_text BEFORE INSERT ON batchq_attempt
        WHEN instr(coalesce(new.error, '') || coalesce(new.log, ''), '{hostile.POISON}')
        BEGIN SELECT RAISE(ABORT, 'the text is refused')\\; END
    """,
}


def refuse_poison(tx: Connection) -> None:
    """Make the database refuse whatever outcome says the poisonous word."""
    kind = tx.dialect.name
    whole = _REFUSE[kind]
    for statement in [whole] if kind == "postgresql" else whole.replace("\\;", "\0").split(";"):
        tx.exec_driver_sql(
            statement.replace("\0", ";").replace("%", "%%") if kind == "postgresql" else statement.replace("\0", ";")
        )


class Started:
    """Follows the ledger: what runs, and when each server last started something."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.number = 0
        self.running: dict[tuple[int, str, int], dict[str, Any]] = {}
        self.ended: dict[tuple[int, str, int], float] = {}
        self.last: dict[str, float] = {}

    def look(self) -> None:
        """Take in what was written since the last look."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            lines = file.read().rpartition(b"\n")[0]
        self._read += len(lines) + bool(lines)
        for line in map(json.loads, filter(None, lines.split(b"\n"))):
            if line["event"] == "start":
                self.number += 1
                self.running[_key(line)] = line
                self.last[line["server"]] = line["at"]
            elif line["event"] == "end":
                self.running.pop(_key(line), None)
                self.ended[_key(line)] = line["at"]


def _key(line: dict[str, Any]) -> tuple[int, str, int]:
    return line["run"], line["task"], line["attempt"]


class Feeder(threading.Thread):
    """Submits jobs of so many tasks, one `every` so many seconds, while fewer than `backlog` tasks are open."""

    def __init__(
        self,
        site: Installation,
        rng: random.Random,
        *,
        tasks: int,
        most: int | None = None,
        every: float = 0.0,
        backlog: int,
        seconds: float = 0.3,
    ) -> None:
        super().__init__(name="chaos-feeder", daemon=True)
        self.jobs = 0
        self.refused = 0
        self._site, self._rng = site, rng
        self._tasks, self._most, self._every, self._backlog, self._seconds = tasks, most, every, backlog, seconds
        self._over = threading.Event()
        self._holds = threading.Event()

    def run(self) -> None:
        began = time.monotonic()
        while not self._over.is_set() and (self._most is None or self.jobs < self._most):
            due = time.monotonic() - began >= self.jobs * self._every and not self._holds.is_set()
            rows = self._site.rows(OPEN_TASKS) if due else None
            if rows and rows[0][0] < self._backlog:
                self._submit()
            else:
                self._over.wait(0.2)

    def _submit(self) -> None:
        job = hurt(f"CHAOS {self.jobs}", self._tasks, self._rng, self._seconds)
        try:
            run = self._site.submit(job)
            self.jobs += 1
            if self._rng.random() < 0.05:
                actions.cancel_run(self._site.database, run)
                self._site.note("canceled", run=run)
        except (BatchqError, SQLAlchemyError):
            self.refused += 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nothing be submitted here meanwhile."""
        self._holds.set()
        try:
            yield
        finally:
            self._holds.clear()

    def end(self) -> None:
        self._over.set()
        self.join(60)


def hurt(name: str, count: int, rng: random.Random, seconds: float) -> Job:
    """A job of so many short tasks with conditions, joins, retries, groups, priorities and some failures by lot."""
    job = Job(name)
    names: list[str] = []
    for number in range(count):
        before = rng.sample(names[-8:], min(len(names), rng.choice([0, 1, 1, 2, 3])))
        after = {each: rng.choice(["success", "finished", "finished"]) for each in before}
        kwargs = {"seconds": rng.uniform(0, seconds), "fail": rng.random() < 0.05}
        names.append(f"task {number}")
        job.task(
            names[-1],
            "ledger.work",
            kwargs=kwargs,
            after=after,
            join=rng.choice(["all", "all", "any"]) if after else None,
            retries=rng.choice([0, 0, 1, 2]),
            group=rng.choice(GROUPS),
            priority=rng.choice(["low", "normal", "high"]),
        )
    return job


def _windows(threads: int) -> Iterator[str]:
    """Windows of 20 s, every other one closed or with one thread, for the next minutes; all else of the day is open."""
    begin = (datetime.now(UTC) + timedelta(seconds=30)).replace(microsecond=0)
    edges = [begin + timedelta(seconds=20 * number) for number in range(9)]
    for number, (start, end) in enumerate(pairwise(edges)):
        if most := (threads, 1, threads, 0)[number % 4]:
            yield _window(start, end, most)
    yield _window(edges[-1], edges[0], threads)


def _window(start: datetime, end: datetime, threads: int) -> str:
    return f'{{start: "{start:%H:%M:%S}", end: "{end:%H:%M:%S}", threads: {threads}, timezone: UTC}}'


def _at_once(postgres: Postgres | None) -> dict[str, Any]:
    return {"connect_timeout": 2, "options": "-c lock_timeout=2000"} if postgres else {"timeout": 2}


Check = Callable[[], bool]
