"""A batch installation for tests: a folder, and the processes that were started for it.

    with Site(tmp_path) as site:
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1", threads=2)
        run = site.submit("job: J\\ntasks: {A: {run: ledger.work, kwargs: {gate: go}}}")
        site.wait_for("A to start", lambda: site.ledger(run))
        site.open_gate("go")
        view = site.wait_end(run)

`Folder` is the processes alone: an empty folder in which commands run, as a user's shell would start them.
`Site` adds a broker of its own (Valkey, or RabbitMQ), a database, and a `BatchQ` of this process on both.

Whatever happens, nothing that was started outlives the test: all die with this process, the end of the `with`
stops them, and then fails if a process is left that carries this folder's mark in its environment. A test that
fails shows the logs (see conftest). Deadlines are generous, since they only matter when something is wrong.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
from celery import Celery

from batchq import BatchQ, Job, actions, views
from batchq.spec import JobSpec, loads
from batchq.store import schema
from batchq.store.database import Database
from batchq.store.group import group_priorities
from support import brokers, checker, ledger_app
from support.proxy import Proxy

T = TypeVar("T")

TESTS = Path(__file__).parent.parent
SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02
LOG_LINES = 60
MARK = "TEST_SITE"
BROKER = "broker"
RUN_ENDED = ("success", "error", "canceled")
PR_SET_PDEATHSIG = 1


class Entry(checker.Entry):
    """An entry of the ledger, in the eyes of a test that looks at the overlap of two."""

    def overlaps(self, other: Entry) -> bool:
        """Whether both ran at some instant."""
        return self.start < (other.end or float("inf")) and other.start < (self.end or float("inf"))


class Folder:
    """A folder, and the processes that run in it. `env` is what they are started with."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.env = {name: value for name, value in os.environ.items() if not _ours(name)}
        self.env |= {
            MARK: self.mark,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "COLUMNS": "160",
            **env,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for name, tail in self.logs() if error else ():
            error.add_note(f"--- log of {name}\n{tail}")  # type: ignore[union-attr]
        self.close()

    # --- commands -------------------------------------------------------------------------------------------

    def cli(
        self, *words: str, code: int | None = 0, seconds: float = SECONDS, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `batchq …` to its end; it must exit with `code`, if that is not None."""
        return self.python("-m", "batchq", *words, code=code, seconds=seconds, **env)

    def python(
        self, *words: str, code: int | None = 0, seconds: float = SECONDS, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `python …` to its end, as `cli` does."""
        ended = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            preexec_fn=_dies_with_us,
        )
        said = f"python {' '.join(words)}: exit {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        assert code in (None, ended.returncode), said
        return ended

    def json(self, *words: str, **options: Any) -> Any:
        """What `batchq … -o json` prints."""
        return json.loads(self.cli(*words, "-o", "json", **options).stdout)

    # --- processes ------------------------------------------------------------------------------------------

    def start(self, name: str, *words: str, **env: str) -> subprocess.Popen[bytes]:
        """Start `batchq …` under a name of our own, and let it run; what it prints is in `log(name)`."""
        return self._start(name, [sys.executable, "-m", "batchq", *words], env)

    def _start(self, name: str, argv: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        assert name not in self.processes, f"{name} runs already"
        with self._log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                argv,
                cwd=self.folder,
                env=self.env | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_dies_with_us,
                start_new_session=True,
            )
        return self.processes[name]

    def tell(self, name: str, number: int) -> None:
        """Send the process a signal, and nothing else."""
        self.processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """End the process with SIGKILL; what it started dies in its own way."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(STOP_SECONDS)

    def stop(self, name: str, seconds: float = STOP_SECONDS) -> int:
        """End the process with SIGTERM; returns its exit code."""
        self.tell(name, signal.SIGTERM)
        return self.wait_exit(name, seconds)

    def wait_exit(self, name: str, seconds: float = SECONDS) -> int:
        """Wait until the process ends by itself; returns its exit code."""
        code = self.processes[name].wait(seconds)
        del self.processes[name]
        return code

    def children(self, name: str) -> list[psutil.Process]:
        """All that the process started, and they in turn."""
        return psutil.Process(self.processes[name].pid).children(recursive=True)

    def alive(self) -> list[psutil.Process]:
        """Every process with our mark, whoever is its parent by now."""
        return [process for process in psutil.process_iter() if self._marked(process)]

    def _marked(self, process: psutil.Process) -> bool:
        try:
            marked = process.environ().get(MARK) == self.mark
            return marked and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def _log(self, name: str) -> Path:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        return logs / f"{name}.log"

    def log(self, name: str) -> str:
        """All that the process has printed so far, in all its lives."""
        path = self._log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def logs(self) -> Iterator[tuple[str, str]]:
        """Name and last lines of every log below the folder, for the report of a test that failed."""
        for path in sorted(self.folder.rglob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            yield str(path.relative_to(self.folder)), "\n".join(lines[-LOG_LINES:])

    # --- waiting, and the end -------------------------------------------------------------------------------

    def wait_for(self, what: str, happens: Callable[[], T], seconds: float = SECONDS) -> T:
        """Wait until `happens()` is true, and return it; fails after `seconds`, or if a process of ours ended."""
        deadline = time.monotonic() + seconds
        while True:
            # In this order: what a process did before it ended is still seen.
            ended = {name: p.returncode for name, p in self.processes.items() if p.poll() is not None}
            if found := happens():
                return found
            for name in ended:
                del self.processes[name]
            assert not ended, f"waiting for {what}: ended with {ended}"
            assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Stop all that runs, the broker last; fails if something is left."""
        broker = [name for name in self.processes if name == BROKER]
        stuck = self._end([name for name in self.processes if name != BROKER]) + self._end(broker)
        left = self._left()
        assert not stuck, f"not ended {STOP_SECONDS:g} s after SIGTERM: {stuck}"
        assert not left, f"left running: {left}"

    def _end(self, names: list[str]) -> list[str]:
        """SIGTERM to these, SIGKILL to those that do not heed it, which are returned."""
        processes = {name: self.processes.pop(name) for name in names}
        for process in processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        stuck = []
        for name, process in processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                stuck.append(name)
                process.kill()
                process.wait()
        return stuck

    def _left(self) -> list[str]:
        """What still runs a while after the end; it is killed, and named."""
        _, left = psutil.wait_procs(self.alive(), timeout=10)
        named = [f"{process.pid} {process.cmdline()}" for process in left if process.is_running()]
        for process in left:
            process.kill()
        return named


class Site(Folder):
    """An installation with a broker, a database and the ledger app; nothing runs until it is started.

    `settings` are batchq's own, for the processes and for `batch`, the BatchQ of this process:
    `Site(tmp_path, fast_path=False, lost_seconds=3)`. `broker` is valkey or rabbitmq; `database_url` may name
    a PostgreSQL. With `proxied` all of them reach the broker through `proxy`, which can hang or fall silent.
    """

    def __init__(
        self,
        folder: Path,
        *,
        app: str = "support.ledger_app",
        broker: str = "valkey",
        database_url: str | None = None,
        proxied: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(folder)
        self._private = Path(tempfile.mkdtemp(prefix="bq-"))  # a socket's path may measure 107 bytes
        self._broker = brokers.KINDS[broker](self._private)
        self._ends = contextlib.ExitStack()
        self.broker_url = self._broker.url
        if proxied:
            self.proxy = self._ends.enter_context(Proxy(self._broker.target))
            self.broker_url = self._broker.url_at(self.proxy.address)
        self.database_url = database_url or f"sqlite:///{folder / 'batchq.db'}"
        self.gates = folder / "gates"
        self.gates.mkdir()
        self._ledger = folder / "ledger.jsonl"
        given = {"home": folder, "database_url": self.database_url, **settings}
        self.env |= {f"BATCHQ_{name.upper()}": _text(value) for name, value in given.items()}
        self.env |= {
            "BATCHQ_APP": app,
            "BATCHQ_BROKER_URL": self.broker_url,
            ledger_app.LEDGER: str(self._ledger),
            ledger_app.GATES: str(self.gates),
        }
        own = ledger_app.register(Celery("site", broker=self.broker_url, set_as_current=False))
        self.batch = BatchQ(own, **given)
        schema.upgrade(self.database)
        self.note("clock", offset=time.time() - time.monotonic())

    @property
    def database(self) -> Database:
        """The database, opened in this process."""
        return self.batch.database

    # --- its processes --------------------------------------------------------------------------------------

    def start_broker(self, *, empty: bool = False) -> None:
        """Start the broker, and wait until it answers.

        A RabbitMQ that ran before has its queues and messages again, unless it is to be `empty`; a Valkey never has.
        """
        if empty:
            self._broker.empty()
        self._start(BROKER, self._broker.argv, self._broker.env)
        self.wait_for("the broker", self._broker.answers)

    def broker(self, *words: str) -> bytes:
        """The raw answer of Valkey to one command, its first 64 KiB: `broker("LLEN", queue)`."""
        assert isinstance(self._broker, brokers.Valkey)
        return self._broker.command(*words)

    def queues(self) -> dict[str, int]:
        """How many messages wait in each of our queues and are with no worker; none where there is no such queue."""
        with self.batch.app.connection_for_read() as connection:
            return {name: brokers.waiting(connection, name) for name in self._queues()}

    def flush_broker(self) -> None:
        """Make the broker forget every message that waits; Valkey forgets all else that it holds as well."""
        if isinstance(self._broker, brokers.Valkey):
            self._broker.command("FLUSHALL")
            return
        with self.batch.app.connection_for_write() as connection:
            for name in self._queues():
                brokers.purge(connection, name)

    def _queues(self) -> list[str]:
        settings = self.batch.settings
        with self.database.read() as tx:
            groups = sorted(group_priorities(tx))
        return [*map(settings.queue, groups), settings.coordinator_queue]

    def start_coordinator(self, name: str = "coordinator", **env: str) -> None:
        """Start a coordinator; its first tick comes when it is up."""
        self.start(name, "coordinator", **env)

    def start_server(
        self, name: str, threads: int | None = None, *, pool: str = "prefork", wait: bool = True, **env: str
    ) -> None:
        """Start the batch server of that name, and wait until it is ready; `threads` as `server set` does."""
        readied = self._readied(name)
        options = ["--pool", pool, *([] if threads is None else ["--threads", str(threads)])]
        self.start(name, "server", "start", name, *options, **env)
        if wait:
            self.wait_for(f"{name} to be ready", lambda: self._readied(name) > readied)

    def start_servers(self, names: Collection[str], threads: int | None = None, **options: Any) -> None:
        """Start these servers side by side, and wait until all of them are ready."""
        readied = sum(map(self._readied, names))
        for name in names:
            self.start_server(name, threads, wait=False, **options)
        everyone = readied + len(names)
        self.wait_for(f"{', '.join(names)} to be ready", lambda: sum(map(self._readied, names)) >= everyone)

    def _readied(self, name: str) -> int:
        """How many lives of the server came as far as to heed signals and to take tickets."""
        return self.log(name).count(" ready.\n")

    def runs(self, name: str) -> bool:
        """Whether the server's row says that a worker carries its name."""
        return self.server(name).get("state") not in (None, "stopped", "lost")

    def server(self, name: str) -> dict[str, Any]:
        """The server as `server show -o json` has it; empty if there is none yet."""
        with self.database.read() as tx:
            return next((view for view in views.servers(tx) if view["name"] == name), {})

    # --- its work -------------------------------------------------------------------------------------------

    def apply(self, text: str) -> list[str]:
        """Make groups, servers and jobs as the YAML says; returns what that changed."""
        return actions.apply(self.database, loads(text))

    def submit(self, job: str | Job | JobSpec) -> int:
        """Submit the job, or the only one in the YAML; returns the run's number."""
        if isinstance(job, str):
            (job,) = loads(job).jobs.values()
        run = self.batch.submit(job)
        self.note("submitted", run=run, tasks=_plan(job if isinstance(job, JobSpec) else job.spec()))
        return run

    def run(self, run: int) -> dict[str, Any]:
        """The run as `runs show -o json` has it."""
        with self.database.read() as tx:
            return views.run_view(tx, run)

    def tasks(self, run: int) -> dict[str, dict[str, Any]]:
        """The tasks of the run by name, each as `runs show -o json` has it."""
        return {task["name"]: task for task in self.run(run)["tasks"]}

    def task(self, run: int, name: str) -> dict[str, Any]:
        """A task as `task show -o json` has it, with its `history` of attempts."""
        with self.database.read() as tx:
            return views.task_view(tx, run, name)

    def states(self, run: int) -> dict[str, str]:
        """The state of every task of the run."""
        return {name: task["status"] for name, task in self.tasks(run).items()}

    def wait_end(self, run: int, seconds: float = SECONDS) -> dict[str, Any]:
        """Wait until the run has ended; returns it as `run` does."""
        try:
            self.wait_for(f"run {run} to end", lambda: self.run(run)["status"] in RUN_ENDED, seconds)
        except AssertionError as error:
            error.add_note(f"{self.states(run)}")
            raise
        return self.run(run)

    def open_gate(self, name: str) -> None:
        """Let the operations go on that wait at this gate, now and later."""
        (self.gates / name).touch()

    def note(self, event: str, **facts: Any) -> None:
        """Write into the ledger what the checker cannot know otherwise: see there."""
        with self._ledger.open("a") as file:
            file.write(json.dumps({"event": event, "at": time.monotonic(), **facts}) + "\n")

    def written(self) -> checker.Ledger:
        """All that stands in the ledger, as the checker reads it."""
        return checker.Ledger.read(self._ledger)

    def ledger(self, run: int | None = None) -> list[Entry]:
        """What the operations wrote down, of one run or of all, in the order of their starts.

        Fails if one attempt started twice.
        """
        started: dict[tuple[int, str, int], dict[str, Any]] = {}
        text = self._ledger.read_text() if self._ledger.exists() else ""
        for line in map(json.loads, text.splitlines()):
            event, at = line.pop("event"), line.pop("at", None)
            if event not in ("start", "end"):
                continue
            attempt = line["run"], line["task"], line["attempt"]
            if event == "start":
                assert attempt not in started, f"an attempt started twice: {started[attempt]}, {line}"
                started[attempt] = line | {"start": at, "end": None}
            else:
                started[attempt]["end"] = at
        entries = sorted((Entry(**facts) for facts in started.values()), key=lambda entry: entry.start)
        return [entry for entry in entries if run in (None, entry.run)]

    def close(self) -> None:
        """Let all operations end, then stop all that runs; fails if something is left."""
        self.open_gate(ledger_app.EVERY_GATE)
        self.batch.publisher.close()
        self.database.dispose()
        try:
            super().close()
        finally:
            self._ends.close()
            self._broker.close()
            shutil.rmtree(self._private, ignore_errors=True)


def _ours(name: str) -> bool:
    return name.startswith(("BATCHQ_", "CELERY_"))


def _plan(job: JobSpec) -> dict[str, Any]:
    """What the checker must know of a job: see there."""
    return {
        task.name: {
            "retries": task.retries,
            "join": task.join.value,
            "ignore_failure": task.ignore_failure,
            "after": [(each.task, each.outcome.value, each.handles) for each in task.after],
        }
        for task in job.tasks
    }


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _dies_with_us() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # A shell that runs the tests in the background ignores Ctrl-C, and hands that down.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
