"""The end of an attempt as a value: a success with its result, or a failure with its reason (rule 30)."""

from __future__ import annotations

from dataclasses import dataclass

from batchq.core.states import Reason


@dataclass(frozen=True, slots=True)
class Success:
    """The operation came back; `result` is JSON."""

    result: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The attempt failed; `error` is its sentence for people, and `final` forbids a further attempt.

    `classes` are the full names of the exception's class and its bases, nearest first; none if none was raised.
    """

    reason: Reason
    error: str
    final: bool = False
    classes: tuple[str, ...] = ()


End = Success | Failure
