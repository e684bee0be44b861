"""BatchQ(app): what joins batchq to a Celery app, and the only place that configures Celery."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Self

import click
from celery import Celery
from celery.signals import celeryd_after_setup, celeryd_init

from batchq import brokers, crash, discovery, launch
from batchq.catalogue import Catalogue
from batchq.config import Settings
from batchq.errors import BrokerUnreachable, NoBroker
from batchq.server.options import ServerOption

if TYPE_CHECKING:
    from batchq.coordinator import Coordinator
    from batchq.engine import Advance
    from batchq.server.celery_types.worker import Worker
    from batchq.server.publisher import Publisher
    from batchq.spec import Job, JobSpec
    from batchq.store.database import Database
    from batchq.store.moves import Ticket

RUN = "batchq.run"
COORDINATE = "batchq.coordinate"
# How much longer an answer may take than a lock: a slow disk must not count as silence.
LONGER_SECONDS = 6.0


class BatchQ:
    """batchq in a Celery app: `batch = BatchQ(app, database_url=…)`.

    Adds two tasks, two bootsteps and a worker option; changes none of the app's own settings. The settings of
    batchq are the `batchq_*` keys of `app.conf`, over them what is given here, over all `BATCHQ_*` of the environment.
    An app has one of it: to join it again gives the same, and adds the settings that are given then.
    """

    def __new__(cls, app: Celery, **settings: object) -> Self:
        """The BatchQ that has joined this app already, else a new one."""
        joined = getattr(app, "batchq", None)
        return joined if isinstance(joined, cls) else super().__new__(cls)

    def __init__(self, app: Celery, **settings: object) -> None:
        if getattr(app, "batchq", None) is self:
            self._add(settings)
            return
        self.app = app
        self.announce: Callable[[], None] | None = None  # called once, before the database is opened
        self.patience = 5.0  # how long an answer of the broker is waited for, in seconds
        self.process = "batchq"  # what PostgreSQL's pg_stat_activity shows of this one
        self._given = settings
        self._lock = threading.Lock()
        self.warnings: list[str] = []  # sentences about its options that a server has yet to log
        self._coordinates = False
        self._publishing: tuple[int, Publisher] | None = None
        app.batchq = self
        self._join()

    def _join(self) -> None:
        app = self.app
        own = {"ignore_result": True, "store_errors_even_if_ignored": False, "acks_late": False, "shared": False}
        app.task(_done_by_its_strategy, name=RUN, Strategy="batchq.server.intake:strategy", **own)
        app.task(_done_by_its_strategy, name=COORDINATE, Strategy="batchq.coordinator:strategy", **own)
        app.steps["worker"].add("batchq.server.step:BatchServer")
        app.steps["consumer"].add("batchq.server.consumer:BatchConsumer")
        app.user_options["worker"].add(ServerOption(app.conf, self._make_server, self._warn))
        celeryd_init.connect(self._begin_logs)

    def _begin_logs(self, instance: Worker, options: Mapping[str, object], **_: object) -> None:
        if instance.app is self.app and (options.get("batch_server") or self._coordinates):
            from batchq.server import logs

            logs.begin(self.settings.log_format, instance)

    def _add(self, settings: dict[str, object]) -> None:
        """Take further settings, and forget the database and the coordinator that the former ones made."""
        if not settings.items() - self._given.items():
            return
        self._given |= settings
        if "database" in vars(self):
            self.database.dispose()
        for made in ("settings", "catalogue", "database", "coordinator"):
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

    # --- its parts ------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        """The settings in force, read once."""
        return Settings.load(self.app.conf, **self._given)

    @cached_property
    def database(self) -> Database:
        """The database; opened on first use."""
        return self.database_within(patience=10.0, answer=60.0)

    def database_within(self, patience: float, answer: float | None = None) -> Database:
        """The database, which waits `patience` seconds for another writer and `answer` seconds for an answer.

        Without `answer` it gives up early, for a process that asks anew; a command's statement may take its time.
        """
        from batchq.store.database import ANSWER_SECONDS, Database

        announce, self.announce = self.announce, None
        if announce is not None:
            announce()
        most = min(ANSWER_SECONDS, patience + LONGER_SECONDS) if answer is None else answer
        return Database(self.settings.database, patience=patience, answer=most, name=self.process)

    @cached_property
    def coordinator(self) -> Coordinator:
        """Return this process's coordinator."""
        from batchq.coordinator import Coordinator

        return Coordinator(self.database_within(patience=10.0), self.settings, self.publisher)

    @property
    def publisher(self) -> Publisher:
        """The sender of messages to the app's broker; a forked child gets one of its own."""
        from batchq.server.connection import CONNECT_SECONDS
        from batchq.server.publisher import Publisher

        if self._publishing is None or self._publishing[0] != os.getpid():
            publisher = Publisher(self.app, self.settings, self.patience, max(self.patience, CONNECT_SECONDS))
            self._publishing = os.getpid(), publisher
        return self._publishing[1]

    # --- its work -------------------------------------------------------------------------------------------

    def submit(self, job: Job | JobSpec) -> int:
        """Store a run of the job and start it; returns the run's number.

        Raises InvalidInput for a job that is too large, or whose operations the app does not know or do not take their
        arguments; BrokerUnreachable, DatabaseUnreachable. Nothing is stored then.
        """
        (run,) = self.submit_all([job])
        return run

    def submit_all(self, jobs: Iterable[Job | JobSpec]) -> list[int]:
        """Store a run of each job and start them; returns the runs' numbers, which ascend in the order of the jobs.

        All jobs are checked before one is stored: an error that `submit` raises for one of them stores none. Jobs with
        at most 5,000 tasks and conditions together are stored in one transaction, all or none. More are stored in
        several, one after the other: if the database fails meanwhile, the jobs of earlier transactions start, and the
        error has a note with their runs.
        """
        from batchq import engine
        from batchq.actions.submit import submit_jobs

        specs = self._checked(jobs)
        if not specs:
            return []
        runs = submit_jobs(self.database, specs)
        crash.point("run-stored")
        if self.settings.fast_path:
            self._forward(engine.hand_out)
        return runs

    def _checked(self, jobs: Iterable[Job | JobSpec]) -> list[JobSpec]:
        """The jobs as they are stored; raises the errors of `submit`."""
        from batchq.spec import Sizes, sized
        from batchq.store import schema

        sizes = Sizes.of(self.settings)
        specs = [sized(job, sizes) for job in jobs]
        for spec in specs:
            self.check_operations(spec)
        if specs:
            self.check_broker()
            if not self.database.has_tables:  # later on, each transaction that stores a run looks at the revision
                schema.check(self.database)
        return specs

    def forward(self) -> None:
        """Settle what has ended and hand out what is ready."""
        from batchq import engine

        self._forward(engine.advance)

    def _forward(self, act: Callable[..., Advance]) -> None:
        """Publish what the act hands out, and repeat it until it leaves nothing to do."""
        from batchq import aside

        more = True
        while more:
            ahead, unsendable = self.settings.tickets_ahead, self.publisher.unsendable
            aging = self.settings.priority_aging_seconds
            step = aside.run(self.database, act, ahead=ahead, unsendable=unsendable, aging=aging)
            crash.point("forward-committed")
            more = not self.publish(step.tickets) or step.more

    def publish(self, tickets: Iterable[Ticket]) -> bool:
        """Send tickets, and take back those whose queue the broker refuses; False if there were any of these.

        Tickets that a broker which is away did not take are sent again by a coordinator.
        """
        from batchq.store import moves

        with self._lock:
            try:
                refused = self.publisher.publish(tickets)
            except BrokerUnreachable:
                # The rows are queued: their tickets are replaced once the broker is back.
                return True
        if refused:
            self.database.run(moves.unqueue, [(ticket.task, ticket.token) for ticket in refused])
        return not refused

    @property
    def names_broker(self) -> bool:
        """Whether settings, app or environment say which broker to use; raises InvalidInput for one that cannot be."""
        return brokers.is_named(self.settings.broker_url, self.app.conf)

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

        Unless `writes`, only those that read: messages of the app itself stay on the app's broker.
        """
        if self.settings.broker_url:
            brokers.lead_to(self.settings.broker_url, self.app.conf, writes=writes)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The app's tasks, as the operations of jobs."""
        return Catalogue(self.app, self.settings)

    def operations(self) -> list[str]:
        """The names of all tasks that a job may run."""
        return self.catalogue.names()

    def may_run(self, operation: str) -> bool:
        """Whether a job may run the task of this name: one that the settings allow, and neither Celery's nor ours."""
        return self.catalogue.allows(operation)

    def rate_limits(self, operations: Iterable[str]) -> str | None:
        """A sentence that names the operations with a `rate_limit`, which does not hold here; None if none has one."""
        return self.catalogue.rate_limits(operations)

    def check_operations(self, job: JobSpec) -> None:
        """Raise InvalidInput unless the app knows every operation of the job, and each takes its arguments."""
        self.catalogue.check(job)

    # --- its processes --------------------------------------------------------------------------------------

    def serve(self, name: str, *, pool: str = "prefork", loglevel: str = "INFO", events: bool = True) -> int:
        """Be the batch server of this name until told to stop; returns the exit code.

        The pool follows what windows and threads allow.
        """
        from batchq.store import schema

        self.check_named()
        schema.check(self.database)
        self.database.dispose()
        return launch.server(self.app, name, pool=pool, loglevel=loglevel, events=events)

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
        return launch.coordinator(self.app, queue(self.settings.coordinator_queue), loglevel=loglevel)


def _done_by_its_strategy(*_: object, **__: object) -> None:
    """Stand for the work of a message, which its strategy does: no setting of the host for tasks then reaches it."""


def find_app(path: str | None = None) -> BatchQ:
    """The BatchQ of the app at `path`, as `celery -A` finds it, else of BATCHQ_APP, else of our own demo app.

    Raises InvalidInput when there is none there.
    """
    path = path or os.environ.get("BATCHQ_APP")
    if not path:
        return demo_app()
    found = discovery.find(path, (Celery, BatchQ))
    return found if isinstance(found, BatchQ) else BatchQ(found)


def demo_app() -> BatchQ:
    """An app of our own, with the demo operations."""
    from batchq import operations

    app = Celery("batchq")
    batch = BatchQ(app)
    operations.register(app, shell_allowed=batch.settings.allow_shell, demo=True)
    return batch
