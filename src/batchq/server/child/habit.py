"""One part of a process that outlives an operation: how it is looked at, and how it is put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Habit(NamedTuple):
    """One part: `look` gives a value to compare; `keep` gives what `put_back` needs, and is taken once, at first."""

    name: str
    look: Callable[[], Any]
    put_back: Callable[[Any], object]
    keep: Callable[[], Any]


def copied(value: Any) -> Any:
    """The value with its lists, dictionaries and tuples copied, so that nobody else changes them."""
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value)) if type(value) in (list, tuple) else value
    return dict(value) if isinstance(value, dict) else value


def never(_: Any) -> None:
    """Leave the part as it is: nothing can put it back."""
