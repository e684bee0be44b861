"""Further attempts: which errors are tried again, and how long each of them waits (rule 30)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from json import dumps, loads

from batchq.core.ends import Failure
from batchq.core.states import Reason

YEAR_SECONDS = 366 * 24 * 3600
MOST_RETRIES = 5
MOST_BACKOFF = 1000
# An exception may have any number of bases, and a name of any length.
MOST_CLASSES, CLASS_CHARS = 50, 200

_module_of = type.__dict__["__module__"].__get__
_name_of = type.__dict__["__qualname__"].__get__
_mro_of = type.__dict__["__mro__"].__get__


class Final(Exception):
    """Raised by an operation whose error no further attempt would mend: the task fails at once (rule 30c)."""

    __module__ = "batchq"


class Lost(Exception):
    """Names lost attempts in `retry_on` and `retry_never_on`; nothing raises it (rules 30c, 31)."""

    __module__ = "batchq"


class TimedOut(Exception):
    """Names attempts that ran past their time limit in `retry_on` and `retry_never_on`; nothing raises it."""

    __module__ = "batchq"


def full_name(kind: type) -> str:
    """The name of a class with its module, as tracebacks show it; read so that no class can answer in its own way."""
    name, module = str(_name_of(kind)), _module_of(kind)
    if not issubclass(type(module), str):  # a class may hold anything there
        return name[:CLASS_CHARS]
    module = str.__str__(module)
    return (name if module == "builtins" else f"{module}.{name}")[:CLASS_CHARS]


def lineage(kind: type) -> tuple[str, ...]:
    """The full names of a class and its bases, nearest first, without `object`; a long line is cut."""
    return tuple(full_name(each) for each in _mro_of(kind)[:MOST_CLASSES] if each is not object)


FINAL = full_name(Final)
# The names of errors that a job file may mean by `batchq.…`.
NAMED = {full_name(each): each for each in (Final, Lost, TimedOut)}
# The classes of failures that no exception of an operation tells of.
CLASSES = {Reason.LOST: lineage(Lost), Reason.TIMED_OUT: lineage(TimedOut)}


def classes_of(failure: Failure) -> tuple[str, ...]:
    """The full names of the class and the bases of what the attempt failed with; none where there was no error."""
    return failure.classes or CLASSES.get(failure.reason, ())


@dataclass(frozen=True, slots=True)
class Policy:
    """How a task is tried again, beside `retries` and `retry_delay`; by default as often as these say, for any error.

    `most` is the longest wait in seconds, `jitter` the part of a wait by which it may move. `on` and `never` are names
    of errors; without `on` all are tried again.
    """

    backoff: float = 1.0
    most: float | None = None
    jitter: float = 0.0
    on: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (1 <= self.backoff <= MOST_BACKOFF and 0 <= self.jitter <= 1):
            raise ValueError(f"no back-off {self.backoff} with a jitter of {self.jitter}")
        if self.most is not None and not 0 <= self.most <= YEAR_SECONDS:
            raise ValueError(f"no longest wait of {self.most} s")
        if not (isinstance(self.on, tuple) and isinstance(self.never, tuple)):
            raise TypeError("names of errors are a tuple")


PLAIN = Policy()
# For settings that nobody can read: no class has an empty name, so nothing is tried again.
UNREADABLE = Policy(on=("",))
# The keys of a task, in a file and in the column `policy`, with the policy's fields.
KEYS = {
    "retry_backoff": "backoff",
    "retry_delay_max": "most",
    "retry_jitter": "jitter",
    "retry_on": "on",
    "retry_never_on": "never",
}


def written(policy: Policy) -> str | None:
    """The policy as it is stored, JSON of the keys that differ from the default; None if none does."""
    if policy is PLAIN:
        return None
    said = {key: getattr(policy, field) for key, field in KEYS.items()}
    told = {key: value for key, value in said.items() if value != getattr(PLAIN, KEYS[key])}
    return dumps(told) if told else None


def read(stored: str | None) -> Policy:
    """The policy that `written` wrote, among keys of others; UNREADABLE for anything else."""
    if stored is None:
        return PLAIN
    try:
        said = loads(stored)
        given = {KEYS[key]: value for key, value in said.items() if key in KEYS}
        names = {field: tuple(map(str, value)) for field, value in given.items() if isinstance(value, list)}
        return Policy(**given | names)
    except (AttributeError, TypeError, ValueError):
        return UNREADABLE


def is_tried_again(policy: Policy, failure: Failure) -> bool:
    """Whether an attempt may follow this failure, if one is left: its error is in `on`, and not in `never`."""
    classes = classes_of(failure)
    if failure.final or FINAL in classes:
        return False
    return (not policy.on or _fits(policy.on, classes)) and not _fits(policy.never, classes)


def _fits(names: Iterable[str], classes: Sequence[str]) -> bool:
    """Whether a name is that of a class or base: its own, or its full one."""
    known = {*classes, *(each.rpartition(".")[2] for each in classes)}
    return not known.isdisjoint(name.removeprefix("builtins.") for name in names)


def wait(retry: int, delay: float, policy: Policy = PLAIN, token: str | None = None) -> float:
    """The seconds before the `retry`-th further attempt, counted from 1, for a `retry_delay` of `delay`.

    The `token` of the attempt that failed seeds the jitter; without one there is none.
    """
    grown = delay * policy.backoff ** (min(max(retry, 1), MOST_RETRIES) - 1)
    capped = min(grown, YEAR_SECONDS if policy.most is None else policy.most)
    return capped if token is None or not policy.jitter else capped * (1 + policy.jitter * _share(token))


def _share(token: str) -> float:
    """A number from -1 to 1 that is the same for the same token."""
    number = int.from_bytes(blake2b(token.encode("utf-8", "replace"), digest_size=6).digest(), "big")
    return number / (2**47) - 1
