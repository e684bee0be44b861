"""The values that cross between the server and a pool process: an order goes in, the end of its attempt comes back."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from batchq.core.ends import End, Failure, Success
from batchq.core.states import Reason

ERROR_CHARS = 2000


@dataclass(frozen=True)
class Current:
    """The job, run, task and attempt that a running operation works for (rule 38)."""

    job: str
    run: int
    task: str
    attempt: int
    run_by: str | None = None
    company: str | None = None


# Not a tuple: tools that show a tuple's items, as Sentry does, would show secrets. And not frozen: a frozen class takes
# four times as long to fill its fields.
@dataclass
class Order:
    """Everything a child needs to run one attempt; `args` is JSON, `kwargs` is packed by `core.secrets`."""

    operation: str
    args: str = field(repr=False)
    kwargs: str = field(repr=False)
    token: str
    current: Current
    hostname: str
    group: str
    log_bytes: int
    result_bytes: int
    # Whether this attempt has the process to itself; the process is then put back in order afterwards.
    alone: bool = False
    # Whether no further attempt follows if this one fails.
    last: bool = True
    # After which errors none follows, as `core.retries` reads it.
    policy: str | None = None
    # The hard and the soft time limit, in seconds.
    time_limits: tuple[float | None, float | None] = (None, None)
    # The process is replaced after this many attempts, or once it has used this much memory.
    most_attempts: int | None = None
    most_kilobytes: int | None = None


class Done(NamedTuple):
    """How an attempt ended, in values that survive the way back; `result` is JSON."""

    ok: bool
    error: str | None = None
    result: str | None = None
    log: str | None = None
    # Whether the process that ran it must run nothing more.
    spent: bool = False
    # Whether the order comes back untouched, because its process was spent already.
    returned: bool = False
    # The full names of the error's class and its bases.
    classes: tuple[str, ...] = ()

    @property
    def end(self) -> End:
        """How the operation ended."""
        return Success(self.result) if self.ok else Failure(Reason.ERROR, self.error or "", classes=self.classes)


running: ContextVar[Current] = ContextVar("batchq_current")


def current() -> Current:
    """The calling operation's job, run, task and attempt, and the job's `run_by` and `company` (rule 38).

    Raises LookupError outside of an operation that a batch server runs.
    """
    try:
        return running.get()
    except LookupError:
        raise LookupError("batchq.current() works only inside an operation that a batch server runs.") from None
