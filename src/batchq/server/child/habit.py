"""One part of a process that outlives an operation: how it is looked at, and how it is put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


class Habit(NamedTuple, Generic[Value]):
    """One part: `look` gives a value to compare; `keep` gives what `put_back` needs, and is taken once, at first."""

    name: str
    look: Callable[[], object]
    put_back: Callable[[Value], object]
    keep: Callable[[], Value]


# A part that keeps a value of any type.
AnyHabit = Habit[Any]


def copied(value: object) -> object:
    """The value with its lists, dictionaries and tuples copied, so that nobody else changes them."""
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value)) if type(value) in (list, tuple) else value
    return dict(value) if isinstance(value, dict) else value


def never(_: object) -> None:
    """Leave the part as it is: nothing can put it back."""
