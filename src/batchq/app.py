"""BatchQ(app): what joins batchq to a Celery app, and the only place that configures Celery."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import click
from celery import Celery
from celery.app.utils import find_app as find_celery_app
from celery.signals import celeryd_after_setup, celeryd_init
from celery.utils.time import rate
from kombu.transport import TRANSPORT_ALIASES

from batchq import crash
from batchq.config import Settings
from batchq.errors import BrokerUnreachable, InvalidInput, NoBroker, closest
from batchq.server.options import ServerOption

if TYPE_CHECKING:
    from batchq.coordinator import Coordinator
    from batchq.server.publisher import Publisher
    from batchq.spec import Job, JobSpec
    from batchq.store.database import Database
    from batchq.store.moves import Ticket

logger = logging.getLogger(__name__)

RUN = "batchq.run"
COORDINATE = "batchq.coordinate"
# A server's ledger waits so much longer for an answer than for a lock: a slow disk is no silence.
LONGER_SECONDS = 6.0


class BatchQ:
    """batchq in a Celery app: `batch = BatchQ(app, database_url=…)`.

    Adds two tasks, two bootsteps and a worker option; changes none of the app's own settings. The settings of
    batchq are the `batchq_*` keys of `app.conf`, over them what is given here, over all `BATCHQ_*` of the environment.
    An app has one of it: to join it again gives the same, and adds the settings that are given then.
    """

    def __new__(cls, app: Celery, **settings: Any) -> Self:
        """The BatchQ that has joined this app already, else a new one."""
        joined = getattr(app, "batchq", None)
        return joined if isinstance(joined, cls) else super().__new__(cls)

    def __init__(self, app: Celery, **settings: Any) -> None:
        if getattr(app, "batchq", None) is self:
            self._add(settings)
            return
        self.app = app
        self.announce: Callable[[], None] | None = None  # called once, before the database is opened
        self.patience = 5.0  # how long an answer of the broker is waited for, in seconds
        self.process = "batchq"  # what PostgreSQL's pg_stat_activity shows of this one
        self._given = settings
        self._lock = threading.Lock()
        self.warnings: list[str] = []  # what a server has still to say of its options
        self._coordinates = False
        self._publishing: tuple[int, Publisher] | None = None
        app.batchq = self
        self._join()

    def _join(self) -> None:
        app = self.app
        own = {"ignore_result": True, "store_errors_even_if_ignored": False, "acks_late": False, "shared": False}
        app.task(_done_by_its_strategy, name=RUN, Strategy="batchq.server.request:strategy", **own)
        app.task(_done_by_its_strategy, name=COORDINATE, Strategy="batchq.coordinator:strategy", **own)
        app.steps["worker"].add("batchq.server.worker:BatchServer")
        app.steps["consumer"].add("batchq.server.worker:BatchConsumer")
        app.user_options["worker"].add(ServerOption(app.conf, self._make_server, self._warn))
        celeryd_init.connect(self._begin_logs)

    def _begin_logs(self, instance: Any, options: Any, **_: object) -> None:
        if instance.app is self.app and (options.get("batch_server") or self._coordinates):
            from batchq.server import logs

            logs.begin(self.settings.log_format, instance)

    def _add(self, settings: dict[str, Any]) -> None:
        """Take further settings; what was made of the former ones is made anew when it is asked for."""
        if not settings.items() - self._given.items():
            return
        self._given |= settings
        if "database" in vars(self):
            self.database.dispose()
        for made in ("settings", "database", "coordinator"):
            vars(self).pop(made, None)
        self._publishing = None

    def _warn(self, sentence: str) -> None:
        """Print the sentence; where logs are JSON keep it for the server's log, so that no raw line stands there."""
        if self.settings.log_format == "json":
            self.warnings.append(sentence)
        else:
            click.echo(f"Warning: {sentence}", err=True)

    def _make_server(self, name: str) -> None:
        """Make this process ready to be a batch server; raises InvalidInput for a broker or database that cannot be."""
        self.check_named()
        self.lead_to_broker(writes=False)

    # --- what it is made of ---------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        """The settings in force, read once."""
        return Settings.load(self.app.conf, **self._given)

    @cached_property
    def database(self) -> Database:
        """The database; opened on first use."""
        return self.database_within(patience=10.0, answer=60.0)

    def database_within(self, patience: float, answer: float | None = None) -> Database:
        """The database, for a caller that waits at most so many seconds for another writer, and for an answer.

        A process that goes on by itself asks anew rather than wait for long; a command's statement may take its time.
        """
        from batchq.store.database import ANSWER_SECONDS, Database

        announce, self.announce = self.announce, None
        if announce is not None:
            announce()
        most = min(ANSWER_SECONDS, patience + LONGER_SECONDS) if answer is None else answer
        return Database(self.settings.database, patience=patience, answer=most, name=self.process)

    @cached_property
    def coordinator(self) -> Coordinator:
        """This process's coordinator."""
        from batchq.coordinator import Coordinator

        return Coordinator(self.database_within(patience=10.0), self.settings, self.publisher)

    @property
    def publisher(self) -> Publisher:
        """What sends messages to the app's broker; a forked child gets one of its own."""
        from batchq.server.connection import CONNECT_SECONDS
        from batchq.server.publisher import Publisher

        if self._publishing is None or self._publishing[0] != os.getpid():
            publisher = Publisher(self.app, self.settings, self.patience, max(self.patience, CONNECT_SECONDS))
            self._publishing = os.getpid(), publisher
        return self._publishing[1]

    # --- what it does ---------------------------------------------------------------------------------------

    def submit(self, job: Job | JobSpec) -> int:
        """Store a run of the job and start it; returns the run's number.

        Raises InvalidInput for an operation that the app does not know or that does not take its arguments,
        BrokerUnreachable or DatabaseUnreachable, before anything is stored.
        """
        from batchq import engine
        from batchq.spec import Job
        from batchq.store import schema

        spec = job.spec() if isinstance(job, Job) else job
        self.check_operations(spec)
        self.check_broker()
        schema.check(self.database)
        run = engine.submit(self.database, spec)
        crash.point("run-stored")
        if self.settings.fast_path:
            self.forward()
        return run

    def forward(self) -> None:
        """Settle what has ended and hand out what is ready."""
        from batchq import aside, engine

        again = True
        while again:
            ahead, unsendable = self.settings.tickets_ahead, self.publisher.unsendable
            step = aside.run(self.database, engine.advance, self.database, ahead=ahead, unsendable=unsendable)
            crash.point("forward-committed")
            again = not self.publish(step.tickets) or step.more

    def publish(self, tickets: Iterable[Ticket]) -> bool:
        """Send tickets, and take back those whose queue the broker refuses; whether there were none of these.

        A coordinator sends again what a broker that is away did not take.
        """
        from batchq.store import moves

        with self._lock:
            try:
                refused = self.publisher.publish(tickets)
            except BrokerUnreachable:
                # The rows are queued: their tickets are replaced once the broker is back.
                return True
        if refused:
            self.database.run(moves.take_back, [(ticket.task, ticket.token) for ticket in refused])
        return not refused

    @property
    def names_broker(self) -> bool:
        """Whether settings, app or environment say which broker to use; raises InvalidInput for one that cannot be."""
        conf = self.app.conf
        named = (
            [self.settings.broker_url] if self.settings.broker_url else [conf.broker_read_url, conf.broker_write_url]
        )
        for urls in filter(None, named):
            for url in urls.split(";") if isinstance(urls, str) else urls:
                _refuse_broker(url, conf.broker_transport)
        return any(named)

    def check_named(self) -> None:
        """Raise InvalidInput for a broker or a database that is named, and on which batchq cannot work."""
        from batchq.store.database import Database

        _ = self.names_broker
        Database(self.settings.database)

    def check_broker(self) -> None:
        """Raise BrokerUnreachable unless the broker answers, NoBroker if none is named."""
        if not self.names_broker:
            raise NoBroker
        with self._lock:
            self.publisher.check()

    def lead_to_broker(self, *, writes: bool) -> None:
        """Point Celery's own connections in this process at the broker of `broker_url`, if that is set.

        Unless `writes`, only what it reads: messages of the app itself stay on the app's broker.
        """
        url, conf = self.settings.broker_url, self.app.conf
        if not url:
            return
        for kind in ("read", "write") if writes or not conf.broker_write_url else ("read",):
            os.environ.pop(f"CELERY_BROKER_{kind.upper()}_URL", None)
            conf[f"broker_{kind}_url"] = url

    def operations(self) -> list[str]:
        """The names of all tasks that a job may run."""
        self.app.loader.import_default_modules()
        return sorted(filter(self.may_run, self.app.tasks))

    def may_run(self, operation: str) -> bool:
        """Whether a job may run the task of this name: never Celery's own or ours, and only what the settings allow."""
        if operation.startswith(("celery.", "batchq.")) or (operation == "shell.run" and not self.settings.allow_shell):
            return False
        return any(fnmatchcase(operation, pattern.strip()) for pattern in self.settings.allowed_operations.split(","))

    def rate_limits(self, operations: Iterable[str]) -> str | None:
        """The sentence about those operations that have a `rate_limit`, which does not hold here; None if none has."""
        if self.app.conf.worker_disable_rate_limits:
            return None
        tasks = ((name, self.app.tasks.get(name)) for name in sorted(set(operations)))
        found = [f"{name} {task.rate_limit}" for name, task in tasks if task is not None and rate(task.rate_limit)]
        if not found:
            return None
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        said = f"{', '.join(found[:5])}{more}"
        return f"rate_limit does not hold for operations ({said}): threads and windows decide how many run at once."

    def check_operations(self, job: JobSpec) -> None:
        """Raise InvalidInput unless the app knows every operation of the job, and each takes what it is given."""
        from batchq.spec import arguments

        known = set(self.operations())
        unknown = {task.run: task.name for task in reversed(job.tasks) if task.run not in known}
        if not unknown:
            arguments.check(job, self.app.tasks)
            return
        operation, task = next(reversed(unknown.items()))
        if operation == "shell.run":
            raise InvalidInput(f"{job.name} / {task}: shell.run is switched off; BATCHQ_ALLOW_SHELL=1 allows it.")
        if operation in self.app.tasks:
            patterns = self.settings.allowed_operations
            allowed = f"the settings allow {patterns!r} (BATCHQ_ALLOWED_OPERATIONS), and never Celery's own"
            raise InvalidInput(f"{job.name} / {task}: {operation!r} may not be run: {allowed}.")
        more = f" {len(unknown) - 1} more are unknown." if len(unknown) > 1 else ""
        raise InvalidInput(
            f"{job.name} / {task}: no task named {operation!r} is registered with the Celery app "
            f"{self.app.main or '?'!r}{closest(operation, known)}. Is its module imported?{more}"
        )

    # --- its processes --------------------------------------------------------------------------------------

    def serve(self, name: str, *, pool: str = "prefork", loglevel: str = "INFO", events: bool = True) -> int:
        """Be the batch server of this name until told to stop; returns the exit code.

        The pool follows what windows and threads allow.
        """
        from batchq.store import schema

        self.check_named()
        schema.check(self.database)
        self.database.dispose()
        options = ["--batch-server", name, "-n", f"{_node(name)}@%h", "-P", pool]
        return self._celery("worker", *options, *(["-E"] if events else []), "-l", loglevel, *QUIET)

    def coordinate(self, *, loglevel: str = "WARNING") -> int:
        """Be a coordinator until told to stop; returns the exit code."""
        from batchq.server import logs
        from batchq.server.broker import hold_out
        from batchq.server.tickets import queue
        from batchq.store import schema

        self.check_named()
        schema.check(self.database)
        self.database.dispose()
        self.lead_to_broker(writes=True)
        hold_out(self.app, "a coordinator")
        self.patience = 1.0  # no longer, as it heeds no signal meanwhile
        self._coordinates = True
        # By then Celery's logging is set up, and nothing has been logged yet.
        celeryd_after_setup.connect(lambda **_: logs.dress_worker(self.settings.log_format), weak=False)
        # Else Celery puts the host's default exchange in the place of the broker's own, and binds our queue to it.
        self.app.amqp.queues.default_exchange = None
        self.app.amqp.queues.add(queue(self.settings.coordinator_queue))
        options = ["-B", "--scheduler", "batchq.coordinator:Scheduler", "-P", "solo", "-Q"]
        name = ["-n", f"coordinator-{os.getpid()}@%h"]
        return self._celery("worker", *options, self.settings.coordinator_queue, *name, "-l", loglevel, *QUIET)

    def _celery(self, *argv: str) -> int:
        from celery.bin.celery import celery

        for command in celery.commands.values():
            # Celery adds an app's options each time it begins: below `celery -A …` they would be there twice.
            command.params[:] = [each for each in command.params if not self._is_users(each)]
        # What Celery.start() does, but for the exit code, which it forgets.
        celery.params[0].default = self.app
        try:
            return int(celery.main(args=list(argv), standalone_mode=False) or 0)
        finally:
            celery.params[0].default = None

    def _is_users(self, option: click.Parameter) -> bool:
        """Whether somebody added this option to Celery's commands for this app."""
        return any(option in added for added in self.app.user_options.values())


QUIET = ["--without-gossip", "--without-mingle"]


# The brokers that can carry tickets, by kombu's names: Redis and Valkey, and RabbitMQ.
BROKERS = ("redis", "rediss", "redis+socket", "sentinel", "amqp", "amqps", "pyamqp")
_TRANSPORTS = {TRANSPORT_ALIASES.get(name) for name in BROKERS} - {None}


def _refuse_broker(url: str, transport: str | None) -> None:
    """Raise InvalidInput for a broker that cannot carry tickets, or whose URL cannot be read.

    No part of the URL but its scheme is told: any other may be one of a password. `transport` is the one that Celery
    takes for an address without a scheme.
    """
    try:
        scheme, _ = urlsplit(url).scheme, urlsplit(url).port
    except ValueError:
        advice = "In its password, write @ as %40, / as %2F and : as %3A."
        raise InvalidInput(f"The broker URL cannot be read. {advice}") from None
    kind = scheme if "://" in url else transport or "amqp"
    if kind not in BROKERS and TRANSPORT_ALIASES.get(kind, kind) not in _TRANSPORTS:
        raise InvalidInput(
            f"No broker of batchq speaks {kind!r}{closest(kind, BROKERS)}: it is Redis, Valkey or RabbitMQ. "
            "Set BATCHQ_BROKER_URL to redis://… or amqp://…."
        )


def _done_by_its_strategy(*_: object, **__: object) -> None:
    """Stands for what a message asks for: past Celery's tracer, so that no setting of the host reaches it."""


def _node(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


# --- finding the app ----------------------------------------------------------------------------------------

# Names that projects give their app, tried after Celery's own search.
NAMES = ("app", "celery", "celery_app", "batch")


def find_app(path: str | None = None) -> BatchQ:
    """The BatchQ of the app at `path`, as `celery -A` finds it, else of BATCHQ_APP, else of our own demo app.

    Raises InvalidInput when there is none there.
    """
    path = path or os.environ.get("BATCHQ_APP")
    if not path:
        return demo_app()
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found = _found(path)
    return found if isinstance(found, BatchQ) else BatchQ(found)


def demo_app() -> BatchQ:
    """An app of our own, with the demo operations."""
    from batchq import operations

    app = Celery("batchq")
    batch = BatchQ(app)
    operations.register(app, shell_allowed=batch.settings.allow_shell, demo=True)
    return batch


def _found(path: str) -> Celery | BatchQ:
    """The app that Celery finds at the path, else one that has another name there."""
    module, _, attribute = path.partition(":")
    try:
        found = find_celery_app(path)
        if isinstance(found, Celery | BatchQ):
            return found
    except AttributeError:  # there is none where Celery looks, or the import itself failed, which then fails again
        pass
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and _leads_to(error.name, path)):
            raise _not_imported(path, error) from error
    apps: list[str] = []
    places = _places(module, path)
    if not attribute and places[0].__name__ != module:
        attribute = module.rpartition(".")[2]
    for place in places:
        for name in [attribute] if attribute else NAMES:
            # Celery takes whatever is named `app`, which may be Flask's.
            if isinstance(found := getattr(place, name, None), Celery | BatchQ):
                return found
        apps += [f"{place.__name__}:{name}" for name, value in vars(place).items() if isinstance(value, Celery)]
    hint = f" It has {', '.join(map(repr, apps))}." if apps else ""
    raise InvalidInput(f"{path!r} names no Celery app.{hint}")


def _places(module: str, path: str) -> list[ModuleType]:
    """The modules to search: that of the path, or its parent for `module.attribute`, and its submodule `celery`.

    Raises InvalidInput.
    """
    try:
        there = importlib.import_module(module)
        if hasattr(there, "__path__") and find_spec(f"{module}.celery"):
            # Celery passes over whatever goes wrong in it.
            return [there, importlib.import_module(f"{module}.celery")]
        return [there]
    except ModuleNotFoundError as error:
        above = module.rpartition(".")[0]
        if above and error.name == module and ":" not in path:
            return _places(above, path)
        if _leads_to(error.name, module):
            said = f"No module named {error.name!r} for the app {path!r}; looked in {Path.cwd()} too."
            raise InvalidInput(said) from None
        raise _not_imported(path, error) from error
    except Exception as error:
        raise _not_imported(path, error) from error


def _leads_to(name: str | None, path: str) -> bool:
    """Whether the module of this name is the one that the path names, or one of those above it."""
    return bool(name) and f"{path}.".replace(":", ".").startswith(f"{name}.".replace(":", "."))


def _not_imported(path: str, error: Exception) -> InvalidInput:
    kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
    return InvalidInput(f"The app {path!r} cannot be imported: {kind}{str(error).strip().rstrip('.')}.")
