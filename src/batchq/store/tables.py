"""The rows: what batchq remembers, with the checks and indexes that the database itself holds (rule 6)."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    event,
    false,
    text,
)
from sqlmodel import Field, SQLModel

from batchq.core.conditions import Join
from batchq.core.states import Outcome, Reason, RunState, State
from batchq.store.sql.dialect import DIALECTS, dialect

NAME = 200
BIG = BigInteger()
for _name, _dialect in DIALECTS.items():
    BIG = BIG.with_variant(_dialect.big, _name)
# Options of a table that is kept in the order of its primary key.
BY_KEY = {option: value for dialect in DIALECTS.values() for option, value in dialect.by_key.items()}


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """A check that the column holds one of the enumeration's words."""
    words = ", ".join(f"'{value.value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=f"{column}_known")


def not_negative(column: str, name: str) -> CheckConstraint:
    """A check that the column holds no number below 0."""
    return CheckConstraint(f"{column} >= 0", name=name)


def partial(name: str, *columns: str, where: str) -> Index:
    """An index over the few rows that a hot query looks at."""
    options: dict[str, Any] = {f"{dialect}_where": text(where) for dialect in DIALECTS}
    return Index(name, *map(text, columns), **options)


def flag() -> Column[bool]:
    """A column that is false unless it is set; inserts leave it out."""
    return Column(Boolean, nullable=False, server_default=false())


def counter(type_: Any = Integer) -> Column[int]:
    """A column that is 0 unless it is set; inserts leave it out."""
    return Column(type_, nullable=False, server_default="0")


class Row(SQLModel):
    """Base of our tables, with a catalogue of their own: a host project's SQLModel tables stay out of it."""

    metadata = MetaData()
    if TYPE_CHECKING:  # SQLModel makes it, and does not say so
        __table__: ClassVar[Table]


class Liveness(StrEnum):
    """Whether a server's worker runs."""

    STOPPED = "stopped"
    RUNNING = "running"
    LOST = "lost"


class Group(Row, table=True):
    """A batch group; it exists once a task, a server or a file named it (rule 13).

    `per_run` is the most of its tasks that one run may have at once; null = no limit (rule 29).
    """

    __tablename__ = "batchq_group"
    name: str = Field(primary_key=True, max_length=NAME)
    priority: int = 1
    paused: bool = False
    per_run: int | None = Field(default=None, sa_column_args=[not_negative("per_run", "per_run_not_negative")])


class Server(Row, table=True):
    """A batch server: its threads, and the life of the worker that carries its name.

    Until `override_until` it has `override_threads`, whatever its windows say.
    """

    __tablename__ = "batchq_server"
    __table_args__ = (
        one_of("liveness", Liveness),
        CheckConstraint("threads >= 0", name="threads_not_negative"),
    )
    id: int | None = Field(default=None, sa_column=Column(BIG, primary_key=True))
    name: str = Field(max_length=NAME, unique=True)
    threads: int = 1
    enabled: bool = True
    liveness: str = Liveness.STOPPED.value
    epoch: int = 0
    beat: int = Field(default=0, sa_column=Column(BIG, nullable=False, default=0))
    beat_at: datetime | None = None
    started_at: datetime | None = None
    host: str | None = None
    pid: int | None = None
    life: str | None = Field(default=None, sa_column=Column(Text))
    pool: int | None = None
    pool_kind: str | None = None
    override_threads: int | None = Field(
        default=None, sa_column_args=[not_negative("override_threads", "override_not_negative")]
    )
    override_until: datetime | None = None
    override_by: str | None = Field(default=None, max_length=NAME)
    override_why: str | None = Field(default=None, sa_column=Column(Text))


class ServerGroup(Row, table=True):
    """A binding of a server to a group: its affinity (rule 12)."""

    __tablename__ = "batchq_server_group"
    server_id: int = Field(sa_column=Column(BIG, ForeignKey("batchq_server.id", ondelete="CASCADE"), primary_key=True))
    group_name: str = Field(foreign_key="batchq_group.name", primary_key=True, max_length=NAME)


class ServerWindow(Row, table=True):
    """A daily period in which a server has a number of threads (rules 17, 21).

    `days` as `mon,tue`, null = all; `only` is the one date of an exception.
    """

    __tablename__ = "batchq_window"
    __table_args__ = (CheckConstraint("threads >= 0", name="threads_not_negative"),)
    id: int | None = Field(default=None, sa_column=Column(BIG, primary_key=True))
    server_id: int = Field(
        sa_column=Column(BIG, ForeignKey("batchq_server.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    start: str = Field(max_length=8)
    end: str = Field(max_length=8)
    threads: int
    timezone: str = Field(max_length=64)
    days: str | None = Field(default=None, max_length=32)
    only: date | None = None


class JobRow(Row, table=True):
    """A named piece of work with its newest definition as JSON; runs keep their own copy.

    `withheld` jobs start no run. `tasks_at_once` is the most tasks that all its runs may have at once; null =
    no limit (rule 29).
    """

    __tablename__ = "batchq_job"
    id: int | None = Field(default=None, sa_column=Column(BIG, primary_key=True))
    name: str = Field(max_length=NAME, unique=True)
    definition: str = Field(sa_column=Column(Text, nullable=False))
    updated_at: datetime
    tasks_at_once: int | None = None
    withheld: bool = Field(default=False, sa_column=flag())
    withheld_by: str | None = Field(default=None, max_length=NAME)
    withheld_at: datetime | None = None
    withheld_why: str | None = Field(default=None, sa_column=Column(Text))


class Run(Row, table=True):
    """One execution of a job; `open_tasks` counts those not yet terminal and settled.

    Nothing of a `held` run starts. `moving_from` is the first task whose row a hold, a release or a cancel
    has still to change, and `retry` the tasks of a retry that is under way, as JSON. `verdicts` counts the retries.
    """

    __tablename__ = "batchq_run"
    __table_args__ = (
        one_of("status", RunState),
        CheckConstraint("open_tasks >= 0", name="open_tasks_not_negative"),
        partial("batchq_run_open", "id", where="status IN ('storing', 'executing', 'canceling')"),
        partial("batchq_run_moving", "id", where="moving_from IS NOT NULL"),
        partial("batchq_run_retrying", "id", where="retry IS NOT NULL"),
    )
    id: int | None = Field(default=None, sa_column=Column(BIG, primary_key=True))
    job_id: int = Field(sa_column=Column(BIG, ForeignKey("batchq_job.id"), nullable=False, index=True))
    job: str = Field(max_length=NAME)
    status: str
    open_tasks: int
    run_by: str | None = Field(default=None, max_length=NAME)
    company: str | None = Field(default=None, max_length=NAME)
    submitted_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    held: bool = Field(default=False, sa_column=flag())
    held_by: str | None = Field(default=None, max_length=NAME)
    held_at: datetime | None = None
    held_why: str | None = Field(default=None, sa_column=Column(Text))
    moving_from: int | None = Field(default=None, sa_column=Column(BIG))
    retry: str | None = Field(default=None, sa_column=Column(Text))
    verdicts: int = Field(default=0, sa_column=counter())


class TaskRow(Row, table=True):  # type: ignore[no-redef]  # the plugin's **kwargs and the column of that name
    """One task of a run: what it does, its conditions in numbers, and where it stands.

    `id` is made of the run's number and the task's position in it, so it is known before the task is stored.
    `attempt` counts starts. `token` names the one ticket that is valid, and later the attempt that it started.
    `unsettled` marks an end that not all waiting tasks have been told of. They are told in the order of their ids, and
    `settled_up_to` is the last one that was told.
    `waits_with` is an earlier task of the run with the same conditions. They are stored and counted there, once for
    all tasks that share them; `sharing` counts these.
    `own_class` is its priority, or that of its group (rule 28). `lane` tells its group and its limits (rule 29).
    `aside` marks a ready task of a held run: dispatch does not look at it.
    `policy` holds settings that few tasks have, as JSON. `retry_after` is the delay in seconds that was chosen for the
    next attempt, and `retried_at` the number of attempts before an operator's retry (rule 30).
    `abort` asks its server to stop the attempt (rule 32). A `gate` only joins conditions; an `unnamed` one was made for
    conditions inside of others. `accepted` says who took it for done without an attempt, and why.
    """

    __tablename__ = "batchq_task"
    __table_args__ = (
        one_of("status", State),
        one_of("joined", Join),
        CheckConstraint("pending >= 0", name="pending_not_negative"),
        UniqueConstraint("run_id", "name", name="batchq_task_name"),
        partial(
            *("batchq_task_ready", "lane", "own_class DESC", "ready_at", "id"),
            where="status = 'ready' AND NOT aside",
        ),
        partial("batchq_task_out", "status", "lane", "server_id", where="status IN ('queued', 'executing')"),
        partial("batchq_task_failed", "run_id", where="status IN ('error', 'canceled')"),
        partial("batchq_task_unsettled", "run_id", "id", where="unsettled"),
        partial("batchq_task_waits_with", "waits_with", where="waits_with IS NOT NULL"),
        partial("batchq_task_aside", "run_id", "id", where="aside"),
    )
    id: int = Field(sa_column=Column(BIG, primary_key=True, autoincrement=False))
    run_id: int = Field(sa_column=Column(BIG, ForeignKey("batchq_run.id", ondelete="CASCADE"), nullable=False))
    name: str = Field(max_length=NAME)
    operation: str
    args: str = Field(sa_column=Column(Text, nullable=False))
    kwargs: str = Field(sa_column=Column(Text, nullable=False))
    group_name: str = Field(max_length=NAME)
    own_class: int = 1
    own_priority: bool = False
    retries: int = 0
    retry_delay: float = 0
    time_limit: float | None = None
    ignore_failure: bool = False
    joined: str = Join.ALL.value
    pending: int = 0
    met: int = 0
    impossible: int = 0
    waits_with: int | None = Field(default=None, sa_column=Column(BIG))
    sharing: int = 0
    status: str = State.WAITING.value
    unsettled: bool = False
    settled_up_to: int | None = Field(default=None, sa_column=Column(BIG))
    attempt: int = 0
    token: str | None = Field(default=None, max_length=36)
    offers: int = 0
    server_id: int | None = Field(default=None, sa_column=Column(BIG))
    epoch: int | None = None
    ready_at: datetime | None = None
    queued_at: datetime | None = None
    claimed_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = Field(default=None, sa_column=Column(Text))
    result: str | None = Field(default=None, sa_column=Column(Text))
    lane: int = Field(default=0, sa_column=counter(BIG))
    aside: bool = Field(default=False, sa_column=flag())
    policy: str | None = Field(default=None, sa_column=Column(Text))
    retry_after: float | None = Field(default=None, sa_column=Column(Double))
    retried_at: int = Field(default=0, sa_column=counter())
    abort: bool = Field(default=False, sa_column=flag())
    gate: bool = Field(default=False, sa_column=flag())
    unnamed: bool = Field(default=False, sa_column=flag())
    stage: str | None = Field(default=None, max_length=NAME)
    repeatable: bool = Field(default=False, sa_column=flag())
    accepted: str | None = Field(default=None, sa_column=Column(Text))


class TaskCondition(Row, table=True):
    """A condition: `task_id`, with the tasks that share its conditions, waits for `outcome` of `predecessor_id`.

    Whether it came true is not stored: the status of the predecessor tells, once that is settled (rules 3-5).
    """

    __tablename__ = "batchq_condition"
    __table_args__ = (
        one_of("outcome", Outcome),
        partial("batchq_condition_handles", "predecessor_id", where="handles"),
        BY_KEY,
    )
    predecessor_id: int = Field(sa_column=Column(BIG, primary_key=True, autoincrement=False))
    task_id: int = Field(
        sa_column=Column(
            BIG,
            ForeignKey("batchq_task.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
            index=True,
        )
    )
    outcome: str = Field(primary_key=True)
    handles: bool = False


class AttemptRow(Row, table=True):
    """One attempt that ended: where, when, how, and what it wrote (rule 30).

    `reason` says why it failed. It is null for a success, and for a failure that an older process stored after the
    upgrade. `error_class` is the full name of the exception's class. `ready_at` is when the attempt could have started,
    and `repeatable` whether the operation said that it may run once more.
    """

    __tablename__ = "batchq_attempt"
    __table_args__ = (partial("batchq_attempt_failed", "ended_at", where="status <> 'success'"),)
    task_id: int = Field(sa_column=Column(BIG, ForeignKey("batchq_task.id", ondelete="CASCADE"), primary_key=True))
    attempt: int = Field(primary_key=True)
    server: str = Field(max_length=NAME)
    epoch: int
    status: str = Field(max_length=16)
    reason: str | None = Field(default=None, max_length=16, sa_column_args=[one_of("reason", Reason)])
    claimed_at: datetime
    ended_at: datetime
    error: str | None = Field(default=None, sa_column=Column(Text))
    log: str | None = Field(default=None, sa_column=Column(Text))
    error_class: str | None = Field(default=None, sa_column=Column(Text))
    ready_at: datetime | None = None
    repeatable: bool = Field(default=False, sa_column=flag())


class Lane(Row, table=True):
    """The tasks of one group that have the same limits; dispatch looks at them together (rules 28, 29).

    `limits` is a sorted JSON list of keys, each `limit:NAME`, `job:ID` or `run:ID`. The lane of one run is `closed`
    when that has ended.
    """

    __tablename__ = "batchq_lane"
    __table_args__ = (
        UniqueConstraint("group_name", "limits", name="batchq_lane_key"),
        partial("batchq_lane_open", "id", where="NOT closed"),
        partial("batchq_lane_of_run", "run_id", where="run_id IS NOT NULL"),
    )
    id: int | None = Field(default=None, sa_column=Column(BIG, primary_key=True))
    group_name: str = Field(max_length=NAME)
    limits: str = Field(sa_column=Column(Text, nullable=False))
    run_id: int | None = Field(default=None, sa_column=Column(BIG))
    closed: bool = Field(default=False, sa_column=flag())


class Limit(Row, table=True):
    """A named limit: so many of the tasks that name it run at once, everywhere (rule 29)."""

    __tablename__ = "batchq_limit"
    __table_args__ = (CheckConstraint("units >= 0", name="units_not_negative"),)
    name: str = Field(primary_key=True, max_length=NAME)
    units: int


class Audit(Row, table=True):
    """One change that a person, or the coordinator in their place, made; it is never changed or deleted.

    `kind` and `name` say what was changed; they are no foreign keys, as what they name may go.
    """

    __tablename__ = "batchq_audit"
    id: int | None = Field(default=None, sa_column=Column(BIG, primary_key=True))
    at: datetime = Field(index=True)
    who: str = Field(max_length=NAME)
    by: str = Field(max_length=16)
    what: str = Field(max_length=64)
    kind: str = Field(max_length=64)
    name: str = Field(sa_column=Column(Text, nullable=False))
    before: str | None = Field(default=None, sa_column=Column(Text))
    after: str | None = Field(default=None, sa_column=Column(Text))
    why: str | None = Field(default=None, sa_column=Column(Text))


@event.listens_for(Audit.__table__, "after_create")
def _keep_rows(table: Table, tx: Connection, **_: object) -> None:
    for words in dialect(tx).keep_rows(table.name):
        tx.exec_driver_sql(words)


class Counter(Row, table=True):
    """The last number that a table gave to a row, where the database would give it again once the row is gone."""

    __tablename__ = "batchq_counter"
    name: str = Field(primary_key=True, max_length=NAME)
    value: int = Field(default=0, sa_column=counter(BIG))


class Dispatch(Row, table=True):
    """The one row whose lock makes dispatch serial; `topology` counts the changes of servers and groups."""

    __tablename__ = "batchq_dispatch"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
    id: int = Field(primary_key=True)
    topology: int = 0


class Trouble(Row, table=True):
    """A row with values that make every act on it fail: it is set aside, and tried again alone.

    `number` is the id of a task, a run or a server, as `what` says; `tries` counts how often it failed.
    """

    __tablename__ = "batchq_trouble"
    what: str = Field(primary_key=True, max_length=16)
    number: int = Field(sa_column=Column(BIG, primary_key=True, autoincrement=False))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    told_by: str = Field(max_length=NAME)
    since: datetime
    tries: int = 1
    again_at: datetime
