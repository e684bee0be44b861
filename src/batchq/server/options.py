"""Celery's options for workers, as a batch server takes them: some hold for its operations, some are refused.

A batch server is a worker; but its groups choose the queues, and its windows and threads the size of its pool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from batchq.errors import Action, Advice, BatchqError, InvalidInput, name_actions
from batchq.escape import LINES, printable

if TYPE_CHECKING:
    from celery import Task

    from batchq.server.celery_types.worker import Worker

# Stands for the server's name in the arguments of an action.
NAME = "{name}"
QUEUES = Advice("its groups decide which queues it takes: {}.", Action.SET_GROUPS, (NAME, "GROUP"))
SIZE = Advice("its windows and threads decide how many tasks it runs: {}.", Action.SET_THREADS, (NAME, "N"))
AHEAD = "it takes what its free threads can start, and BATCHQ_TICKETS_AHEAD more."
STORED = Advice("what waits is in the database: {} cancels it.", Action.CANCEL)


@dataclass(frozen=True)
class Unfit:
    """An option of `celery worker` that does not hold; unless it is `refused`, there is only a warning."""

    flags: tuple[str, ...]
    instead: Advice | str
    refused: bool = True
    is_flag: bool = False

    def said(self, name: str) -> InvalidInput:
        """The error for the batch server of this name; it is raised if the option is refused, else only printed."""
        advice = self.instead
        if isinstance(advice, Advice):
            advice = advice._replace(arguments=tuple(name if each == NAME else each for each in advice.arguments))
        return InvalidInput(f"{self.flags[0]} does not hold for a batch server:", advice=advice)


# By click's names of the parameters. Start scripts often give the last three, so there is only a warning of them.
UNFIT = {
    "queues": Unfit(("-Q", "--queues"), QUEUES),
    "exclude_queues": Unfit(("-X", "--exclude-queues"), QUEUES),
    "autoscale": Unfit(("--autoscale",), SIZE),
    "purge": Unfit(("--purge", "--discard"), STORED, is_flag=True),
    "concurrency": Unfit(("-c", "--concurrency"), SIZE, refused=False),
    "prefetch_multiplier": Unfit(("--prefetch-multiplier",), AHEAD, refused=False),
    "disable_prefetch": Unfit(("--disable-prefetch",), AHEAD, refused=False, is_flag=True),
}
# Celery's other pools. One of a project's own is judged once it is imported.
UNFIT_POOLS = frozenset({"solo", "eventlet", "gevent"})


def refuse(name: str, given: Collection[str]) -> Iterator[InvalidInput]:
    """Yield a warning for each option that does not hold; raises InvalidInput for one that is refused."""
    for option in given:
        if (unfit := UNFIT.get(option)) is not None:
            if unfit.refused:
                raise unfit.said(name)
            yield unfit.said(name)


def refuse_pool(pool: object, where: str) -> None:
    """Raise InvalidInput for the name of a pool that no batch server can run on."""
    if pool in UNFIT_POOLS:
        raise InvalidInput(
            f"A batch server runs on the prefork or the threads pool, not on {pool!r}, as {where} says: "
            "start it with --pool prefork or --pool threads."
        )


class ServerOption(click.Option):
    """`--batch-server NAME` of `celery worker`: refuses, before anything starts, what cannot be a batch server.

    `make_ready` is called with the name, and may refuse by raising. `warn` is called with each sentence about an
    option that does not hold.
    """

    def __init__(
        self, conf: Mapping[str, object], make_ready: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        super().__init__(
            ["--batch-server"],
            metavar="NAME",
            help="Be the batch server of this name (batchq).",
            # Before Celery imports a pool or chooses queues.
            is_eager=True,
        )
        self._conf = conf
        self._make_ready = make_ready
        self._warn = warn

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, object], args: list[str]
    ) -> tuple[object, list[str]]:
        """The option's value, as click has it."""
        name, args = super().handle_parse_result(ctx, opts, args)
        # An option that was not given may be a sentinel of click's.
        if isinstance(name, str) and name and not ctx.resilient_parsing:
            _speak_as_program(ctx)
            try:
                self._look_over(name, ctx, opts)
            except BatchqError as error:
                failure = click.ClickException(printable(str(error), LINES))
                vars(failure)["exit_code"] = error.exit_code  # click declares it on the class
                raise failure from error
        return name, args

    def _look_over(self, name: str, ctx: click.Context, opts: Mapping[str, object]) -> None:
        given = _given(ctx, opts)
        for warning in refuse(name, given):
            self._warn(str(warning))
        if "pool" in given:
            refuse_pool(given["pool"], "--pool")
        else:
            refuse_pool(self._conf["worker_pool"], "the app's worker_pool")
        if given.get("pool") == "prefork":
            # Celery takes `prefork` for no choice at all, and follows the app's worker_pool; `processes` it obeys.
            assert isinstance(opts, dict)
            opts["pool"] = "processes"
        self._make_ready(name)


def _speak_as_program(ctx: click.Context) -> None:
    """Name actions as commands from here on: Celery's program has ours beside its own, which knows how they are typed.

    Operators read the errors and the log of a server, however it was started.
    """
    ours = getattr(ctx.find_root().command, "commands", {}).get("batchq")
    if (words := getattr(ours, "words", None)) is not None:
        name_actions(words)


def _given(ctx: click.Context, opts: Mapping[str, object]) -> dict[str, object]:
    """The options given on the command line or in CELERY_WORKER_*, as text."""
    given: dict[str, object] = {}
    for param in ctx.command.params:
        if param.name in opts:
            given[param.name] = opts[param.name]
        elif not getattr(param, "is_flag", False) and (said := param.value_from_envvar(ctx)) is not None:
            given[param.name] = said
    return given


@dataclass(frozen=True)
class WorkerLimits:
    """Celery's limits of app and worker, for operations without their own: times in seconds, memory in KiB."""

    soft_time_limit: float | None
    time_limit: float | None
    attempts: int | None
    kilobytes: int | None
    # Celery gives these to each task that has none of its own.
    of_app: Mapping[str, float | None]

    @classmethod
    def taken_from(cls, worker: Worker) -> WorkerLimits:
        """Take the limits away from the worker, whose pool would apply them in its own way.

        Celery ends a child that ran its last task while the next order may be on its way to it already.
        """
        conf = worker.app.conf
        limits = cls(
            worker.soft_time_limit or None,
            worker.time_limit or None,
            _number(worker.max_tasks_per_child, "worker_max_tasks_per_child"),
            _number(worker.max_memory_per_child, "worker_max_memory_per_child"),
            {name: conf[f"task_{name}"] for name in ("soft_time_limit", "time_limit")},
        )
        worker.soft_time_limit = worker.time_limit = None
        worker.max_tasks_per_child = worker.max_memory_per_child = None
        return limits

    def of(self, task: Task | None, hard: float | None) -> tuple[float | None, float | None]:
        """The soft and the hard time limit of an operation; `hard`, from the job file, goes first (rule 34)."""
        soft, hard = self._one(task, "soft_time_limit"), hard or self._one(task, "time_limit")
        # Celery begins to count the hard limit only when the soft one has passed.
        return (None if soft and hard and soft >= hard else soft), hard

    def _one(self, task: Task | None, name: str) -> float | None:
        own: float | None = getattr(task, name, None)
        in_force: float | None = getattr(self, name)
        return own if own and own != self.of_app[name] else in_force

    def said(self) -> str:
        """The limits that are set, in the words of the app's settings; empty if none is."""
        named = {
            "worker_max_tasks_per_child": self.attempts,
            "worker_max_memory_per_child": self.kilobytes,
            "task_time_limit": self.time_limit,
            "task_soft_time_limit": self.soft_time_limit,
        }
        return ", ".join(f"{name}={value}" for name, value in named.items() if value)


def _number(value: str | float | None, name: str) -> int | None:
    try:
        number = int(value or 0)
    except (TypeError, ValueError):
        raise InvalidInput(f"{name} is {value!r}, where a whole number should be.") from None
    return number if number > 0 else None
