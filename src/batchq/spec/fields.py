"""The fields of the models: names, JSON, times, conditions, and what each of them refuses (rules 3, 17)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Annotated, Literal, TypeAlias, cast

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
from batchq.core.conditions import MOST_LEVELS, After, Condition, Join, Joined, is_nested
from batchq.core.json import JSON
from batchq.core.limits import MOST_UNITS
from batchq.core.retries import MOST_BACKOFF
from batchq.core.retries import YEAR_SECONDS as YEAR_SECONDS
from batchq.core.states import SYNONYMS, Outcome
from batchq.core.windows import YEARS, format_days, format_time, parse_date, parse_days, parse_time, zone
from batchq.spec.error_names import error_name
from batchq.spec.faults import Fault, Path, RuleBroken, near, shown, unknown_keys

Priority: TypeAlias = Literal["low", "normal", "high", "critical"]

MOST_THREADS = 100_000
DEPTH = 64
JOINS = frozenset(map(str, Join))
WORDS = {outcome: outcome.value for outcome in Outcome}  # once: `value` takes longer than all the rest of a condition
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


def conditions(value: object) -> After:
    """The conditions that an `after` says; ValueError if it says none that can be understood (rules 3, 50).

    It is `TASK 2` (to succeed), `{TASK 1: finished, TASK 3: {outcome: error, handles: true}}`, a list of
    these, or nothing. `{any: [TASK 2, {TASK 3: error}]}` is a join of conditions, and stands where one does.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (Condition(value),)
    if not isinstance(value, list | tuple):
        return tuple(_stated(value, 1))
    if set(map(type, value)) == {str}:
        return _succeeding(tuple(value))  # the usual long list
    return tuple(_listed(value, 0))


@lru_cache(maxsize=4)
def _succeeding(names: tuple[str, ...]) -> tuple[Condition, ...]:
    """Conditions on the success of these tasks; the tasks of a layer follow the same ones, and share the tuple."""
    return tuple(map(Condition, names))


def is_join(word: object, asked: object) -> bool:
    """Whether `all` or `any` joins the conditions in a list; else it is the name of a task (rule 50)."""
    return word in JOINS and isinstance(asked, list | tuple)


def has_join(said: object) -> bool:
    """Whether an `after`, as a file says it, holds a join."""
    items = said if isinstance(said, list | tuple) else (said,)
    return any(isinstance(item, Mapping) and any(is_join(*each) for each in item.items()) for item in items)


def _listed(items: Iterable[object], level: int) -> Iterator[Condition | Joined]:
    for at, item in enumerate(items):
        # A condition is found in the list of its task by its name; in a join it may stand once more.
        inside: Path = (at,) if level or has_join(item) else ()
        try:
            yield from _stated(item, level + 1)
        except RuleBroken as broken:
            raise RuleBroken(*(fault.below(inside) for fault in broken.faults)) from None


def _stated(item: object, level: int) -> Iterator[Condition | Joined]:
    if isinstance(item, str):
        yield Condition(item)
    elif isinstance(item, Condition | Joined):
        yield item
    elif isinstance(item, Mapping):
        for task, asked in item.items():
            yield _joined(task, asked, level) if is_join(task, asked) else _condition(task, asked)
    else:
        advice = "; put the name in quotes" if isinstance(item, bool | int | float) else ""
        raise ValueError(
            f"must be a task name, a mapping of task names to outcomes, or a list of these, not {shown(item)}{advice}"
        )


def _joined(word: str, items: Sequence[object], level: int) -> Joined:
    if level > MOST_LEVELS:
        raise RuleBroken(Fault((), f"'all' and 'any' stand within each other, {MOST_LEVELS} levels deep at most"))
    try:
        return Joined(Join(word), tuple(_listed(items, level)))
    except RuleBroken as broken:
        raise RuleBroken(*(fault.below((word,)) for fault in broken.faults)) from None
    except ValueError as error:
        raise RuleBroken(Fault((word,), str(error))) from None


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


def _as_in_a_file(after: After) -> list[dict[str, object]]:
    """The conditions as a file says them, so that what is dumped can be read again."""
    if is_nested(after):
        return [
            {each.join.value: _as_in_a_file(each.conditions)} if isinstance(each, Joined) else _as_in_a_file((each,))[0]
            for each in after
        ]
    words = WORDS
    return [
        {c.task: {"outcome": words[c.outcome], "handles": True} if c.handles else words[c.outcome]}
        for c in cast("tuple[Condition, ...]", after)
    ]


def place_in(said: object, task: str) -> Path | None:
    """The path of the first condition on `task` within an `after`, as the file says it."""
    if isinstance(said, Mapping):
        steps: Iterable[tuple[str | int, object]] = said.items()
    else:
        steps = enumerate(said) if isinstance(said, list) else ()
    for step, inner in steps:
        if task in (step, inner) and not is_join(step, inner):
            return (step,)
        within = inner if isinstance(inner, list) or isinstance(step, int) else ()
        if (path := place_in(within, task)) is not None:
            return (step, *path)
    return None


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


def _errors(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("names no error; leave it out, and all are meant")
    return _distinct(names)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"{shown(twice)} is there twice")
    return names


# The words that a file may use, for the schema; a test holds them to those of core.
Word: TypeAlias = Literal[
    "success", "ended", "succeeded", "ok", "afterok",
    "error", "failure", "failed", "afternotok",
    "finished", "done", "afterany", "ended_or_error",
    "skipped", "omitted", "not_run", "didnt_run",
    "over", "always", "all_done",
]  # fmt: skip
Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class ConditionForm(BaseModel):
    """A condition in full."""

    model_config = ConfigDict(extra="forbid", title="Condition")

    outcome: Word
    handles: bool = False


class AfterMapping(BaseModel):
    """Conditions by the task that they are on; `all` and `any` with a list join the conditions in it."""

    model_config = ConfigDict(extra="allow", title="Conditions")
    __pydantic_extra__: dict[str, Word | ConditionForm]

    all: Word | ConditionForm | list[str | AfterMapping] = "success"
    any: Word | ConditionForm | list[str | AfterMapping] = "success"


AfterForm: TypeAlias = str | AfterMapping | list[str | AfterMapping] | None

Name = Annotated[str, AfterValidator(_name)]
Names = Annotated[tuple[Name, ...], AfterValidator(_distinct)]
Args = Annotated[list[JSON], AfterValidator(_json)]
Kwargs = Annotated[dict[str, JSON], AfterValidator(_json)]
Threads = Annotated[int, Field(strict=True, ge=0, le=MOST_THREADS)]
Units = Annotated[int, Field(strict=True, ge=0, le=MOST_UNITS)]
Seconds = Annotated[float, Field(strict=True, le=YEAR_SECONDS, allow_inf_nan=False)]
Backoff = Annotated[float, Field(strict=True, ge=1, le=MOST_BACKOFF, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Errors = Annotated[tuple[Annotated[Name, AfterValidator(error_name)], ...], AfterValidator(_errors)]
TimeOfDay = Annotated[str, AfterValidator(_time)]
Zone = Annotated[str, BeforeValidator(_zone, json_schema_input_type=str | None)]
Date = Annotated[date, BeforeValidator(_date, json_schema_input_type=str)]
Days = Annotated[tuple[str, ...] | None, BeforeValidator(_days, json_schema_input_type=list[Day] | None)]
Conditions = Annotated[
    After,
    PlainValidator(conditions, json_schema_input_type=AfterForm),
    PlainSerializer(_as_in_a_file, return_type=list[dict[str, JSON]]),
]
