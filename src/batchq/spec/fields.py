"""The fields of the models: names, JSON, times, conditions, and what each of them refuses (rules 3, 17)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
)

from batchq.config import Settings, users_zone
from batchq.core.conditions import Condition
from batchq.core.json import JSON
from batchq.core.limits import MOST_UNITS
from batchq.core.states import SYNONYMS, Outcome
from batchq.core.windows import YEARS, format_days, format_time, parse_date, parse_days, parse_time, zone
from batchq.spec.faults import Fault, Path, RuleBroken, near, shown, unknown_keys

Priority: TypeAlias = Literal["low", "normal", "high", "critical"]

MOST_THREADS = 100_000
YEAR_SECONDS = 366 * 24 * 3600
DEPTH = 64
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Sizes:
    """The most that one job file, or one job, may hold, and whose zone it is written in."""

    file_bytes: int = 8 * 1024 * 1024
    tasks: int = 100_000
    conditions: int = 1_000_000
    name_chars: int = 200
    argument_bytes: int = 64 * 1024  # args and kwargs of one task, as JSON
    timezone: str | None = None  # of windows that name none: their user's; none = the machine's

    @classmethod
    def of(cls, settings: Settings) -> Sizes:
        """Return the sizes that the settings allow."""
        return cls(
            file_bytes=settings.file_bytes,
            tasks=settings.max_tasks,
            conditions=settings.max_conditions,
            name_chars=settings.name_chars,
            argument_bytes=settings.argument_bytes,
            timezone=settings.timezone,
        )


USUAL_SIZES = Sizes()


def sizes_of(info: ValidationInfo) -> Sizes:
    """The sizes that a validation was given, or the usual ones."""
    return info.context if isinstance(info.context, Sizes) else USUAL_SIZES


def name_fault(name: str, sizes: Sizes = USUAL_SIZES) -> str | None:
    """Why this cannot be a name: one is a line of text in which every character shows."""
    if not name:
        return "a name must not be empty"
    if len(name) > sizes.name_chars:
        return f"the name {shown(name)} has {len(name):,} characters, at most {sizes.name_chars:,} are allowed"
    if not name.isprintable():
        odd = next(character for character in name if not character.isprintable())
        return f"the name {shown(name)} holds U+{ord(odd):04X}, which does not show; leave it out"
    if name[0] == " " or name[-1] == " ":
        return f"the name {shown(name)} begins or ends with a space; leave it out"
    return None


def _name(value: str, info: ValidationInfo) -> str:
    if fault := name_fault(value, sizes_of(info)):
        raise ValueError(fault)
    return value


def _json(value: JSON, info: ValidationInfo) -> JSON:
    """The value itself, if it is JSON that every database and broker can carry."""
    fault = next(_json_faults(value, sizes_of(info).argument_bytes), None)
    if fault:
        raise RuleBroken(fault)
    return value


def _json_faults(root: object, most_bytes: int) -> Iterator[Fault]:
    """Yield the parts of `root` that are not JSON; the stack is our own, so depth costs no recursion."""
    stack: list[tuple[object, Path]] = [(root, ())]
    least = 0
    while stack:
        value, path = stack.pop()
        least += 2 * len(value) if isinstance(value, Sized) else 1
        if least > 2 * most_bytes:
            yield Fault((), f"takes more than {most_bytes:,} bytes as JSON")
            return
        if isinstance(value, Mapping):
            faults = ((key, _text_fault(key)) for key in value)
            yield from (Fault(path, f"the key {shown(key)} {fault}") for key, fault in faults if fault)
            inside: Iterable[tuple[str | int, object]] = value.items()
        elif isinstance(value, list | tuple):
            inside = enumerate(value)
        else:
            if fault := _scalar_fault(value):
                yield Fault(path, fault)
            continue
        if len(path) == DEPTH:
            yield Fault((), f"is nested deeper than {DEPTH} levels")
            return
        stack.extend((child, (*path, step)) for step, child in inside)


def _scalar_fault(value: object) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return _text_fault(value)
    if isinstance(value, int):
        return None if value in INT64 else "is a whole number of more than 64 bits; give it as text"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"must be a finite number, not {value}"
    return f"must be JSON, not a Python {type(value).__name__}"


def _text_fault(value: object) -> str | None:
    if not isinstance(value, str):
        return "must be text"
    if "\0" in value:
        return "holds a NUL character"
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return "holds half a surrogate pair, which is no character"
    return None


def conditions(value: object) -> tuple[Condition, ...]:
    """The conditions that an `after` says; ValueError if it says none that can be understood (rule 3).

    It is `TASK 2` (to succeed), `{TASK 1: finished, TASK 3: {outcome: error, handles: true}}`, a list of
    these, or nothing.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (Condition(value),)
    items = value if isinstance(value, list | tuple) else (value,)
    if set(map(type, items)) == {str}:
        return _succeeding(tuple(items))  # the usual long list
    return tuple(condition for item in items for condition in _stated(item))


@lru_cache(maxsize=4)
def _succeeding(names: tuple[str, ...]) -> tuple[Condition, ...]:
    """Conditions on the success of these tasks; the tasks of a layer follow the same ones, and share the tuple."""
    return tuple(map(Condition, names))


def _stated(item: object) -> Iterator[Condition]:
    if isinstance(item, str):
        yield Condition(item)
    elif isinstance(item, Condition):
        yield item
    elif isinstance(item, Mapping):
        for task, asked in item.items():
            yield _condition(task, asked)
    else:
        advice = "; put the name in quotes" if isinstance(item, bool | int | float) else ""
        raise ValueError(
            f"must be a task name, a mapping of task names to outcomes, or a list of these, not {shown(item)}{advice}"
        )


def _condition(task: object, asked: object) -> Condition:
    if not isinstance(task, str):
        raise ValueError(f"a task name must be text, not {shown(task)}")
    if not isinstance(asked, Mapping):
        return Condition(task, _outcome(task, asked))
    for fault in unknown_keys(asked, ("outcome", "handles")):
        raise RuleBroken(fault.below((task,)))
    handles = asked.get("handles", False)
    if not isinstance(handles, bool):
        raise RuleBroken(Fault((task, "handles"), f"must be true or false, not {shown(handles)}"))
    if "outcome" not in asked:
        raise RuleBroken(Fault((task,), "'outcome' is missing"))
    return Condition(task, _outcome(task, asked["outcome"]), handles)


def _outcome(task: str, word: object) -> Outcome:
    outcome = SYNONYMS.get(word.casefold()) if isinstance(word, str) else None
    if outcome is None:
        *first, last = Outcome
        advice = f"use {', '.join(first)} or {last}"
        raise RuleBroken(Fault((task,), f"no outcome {shown(word)}{near(word, SYNONYMS)}; {advice}"))
    return outcome


def _as_in_a_file(after: tuple[Condition, ...]) -> list[dict[str, object]]:
    """The conditions as a file says them, so that what is dumped can be read again."""
    words = {outcome: outcome.value for outcome in Outcome}  # looked up here: `value` takes longer than the rest
    return [{c.task: {"outcome": words[c.outcome], "handles": True} if c.handles else words[c.outcome]} for c in after]


def _time(value: str) -> str:
    return format_time(parse_time(value))


def _zone(value: str | None, info: ValidationInfo) -> str:
    """The zone that is named, else that of the user who writes the file (rule 17)."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"must be the name of a time zone, not {shown(value)}")
    return zone(value or users_zone(sizes_of(info).timezone)).key


def _date(value: JSON) -> date:
    day = value if isinstance(value, date) and not isinstance(value, datetime) else parse_date(value)
    if day.year not in YEARS:
        raise ValueError(f"must lie between {YEARS[0]} and {YEARS[-1]}, not in {day.year}")
    return day


def _days(value: JSON) -> tuple[str, ...] | None:
    return None if value is None else tuple(format_days(parse_days(value)))


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{shown(twice)} is there twice")
    return names


# The words that a file may use, for the schema; a test holds them to those of core.
Word: TypeAlias = Literal[
    "success", "ended", "succeeded", "ok", "afterok",
    "error", "failure", "failed", "afternotok",
    "finished", "done", "afterany", "ended_or_error",
]  # fmt: skip
Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class ConditionForm(BaseModel):
    """A condition in full."""

    model_config = ConfigDict(extra="forbid", title="Condition")

    outcome: Word
    handles: bool = False


AfterForm: TypeAlias = str | dict[str, Word | ConditionForm] | list[str | dict[str, Word | ConditionForm]] | None

Name = Annotated[str, AfterValidator(_name)]
Names = Annotated[tuple[Name, ...], AfterValidator(_distinct)]
Args = Annotated[list[JSON], AfterValidator(_json)]
Kwargs = Annotated[dict[str, JSON], AfterValidator(_json)]
Threads = Annotated[int, Field(strict=True, ge=0, le=MOST_THREADS)]
Units = Annotated[int, Field(strict=True, ge=0, le=MOST_UNITS)]
Seconds = Annotated[float, Field(strict=True, le=YEAR_SECONDS, allow_inf_nan=False)]
TimeOfDay = Annotated[str, AfterValidator(_time)]
Zone = Annotated[str, BeforeValidator(_zone, json_schema_input_type=str | None)]
Date = Annotated[date, BeforeValidator(_date, json_schema_input_type=str)]
Days = Annotated[tuple[str, ...] | None, BeforeValidator(_days, json_schema_input_type=list[Day] | None)]
After = Annotated[
    tuple[Condition, ...],
    PlainValidator(conditions, json_schema_input_type=AfterForm),
    PlainSerializer(_as_in_a_file, return_type=list[dict[str, JSON]]),
]
