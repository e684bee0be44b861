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
    """The attempt failed; `error` is its sentence for people, and `final` forbids a further attempt."""

    reason: Reason
    error: str
    final: bool = False


End = Success | Failure
