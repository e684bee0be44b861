"""Faults of an input, in words: the path of a field and a sentence about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple, TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from batchq.errors import closest

Path: TypeAlias = tuple[str | int, ...]

MOST_FAULTS = 10  # more than a person mends at once
CANDIDATES = 300  # comparing more names takes longer than the hint is worth
SHOWN = 60
# Words for keys that other keys are closer to.
MEANT = {"retry": "retries"}


class Fault(NamedTuple):
    """A sentence about the field at `path`; `inside` leads on to its very place, but is not printed."""

    path: Path
    sentence: str
    inside: Path = ()

    def below(self, path: Path) -> Fault:
        """Return this fault, seen from where `path` starts."""
        return self._replace(path=(*path, *self.path))

    def __str__(self) -> str:
        """The fault as people read it: `tasks.TASK 3.after: no task named 'TASK 9'`."""
        field = ".".join(_step(step) for step in self.path)
        return f"{field}: {self.sentence}" if field else self.sentence


class RuleBroken(ValueError):
    """A rule over several fields does not hold; raised inside a model, with the places."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        super().__init__("; ".join(map(str, faults)))


def shown(value: object) -> str:
    """The value as it may stand in a sentence: text quoted and cut, with nothing that breaks the line."""
    if isinstance(value, str):
        return repr(value if len(value) <= SHOWN else value[: SHOWN - 1] + "…")
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value) if abs(value) < 10**20 else "a huge number"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def near(name: object, known: Collection[str]) -> str:
    """The clause with the closest of the `known` names, or nothing; looks at no more than it can afford."""
    if not isinstance(name, str) or len(name) > 200:
        return ""
    if len(known) > CANDIDATES:  # a slip of the fingers leaves one half as it is
        half = (len(name) + 1) // 2
        alike = (each for each in known if each[:half] == name[:half] or each[-half:] == name[-half:])
        known = list(islice(alike, CANDIDATES))
    return closest(name, known)


def unknown_keys(form: Iterable[str], known: Collection[str], later: Collection[str] = ()) -> Iterator[Fault]:
    """A fault for each key that is not `known`; those that work only `later` are told apart."""
    for key in form:
        if key in later:
            yield Fault((), f"{shown(key)} does not work yet in this version", (key,))
        elif key not in known:
            yield Fault((), f"unknown key {shown(key)}{near(MEANT.get(key, key), known)}", (key,))


def faults_in(error: ValidationError) -> Iterator[Fault]:
    """Return the faults that a model found, in our words."""
    for found in error.errors(include_url=False):
        path = found["loc"]
        broken = found.get("ctx", {}).get("error")
        if isinstance(broken, RuleBroken):
            yield from (fault.below(path) for fault in broken.faults)
        elif found["type"] == "missing":
            yield Fault(path[:-1], f"'{path[-1]}' is missing")
        else:
            yield Fault(path, _sentence(found))


SENTENCES = {
    "string_type": "must be text, not {got}",
    "int_type": "must be a whole number, not {got}",
    "float_type": "must be a number, not {got}",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false, not {got}",
    "list_type": "must be a list, not {got}",
    "tuple_type": "must be a list, not {got}",
    "dict_type": "must be a mapping, not {got}",
    "greater_than_equal": "must be at least {ge:,}, not {got}",
    "greater_than": "must be more than {gt:,}, not {got}",
    "less_than_equal": "must be at most {le:,}, not {got}",
    "literal_error": "must be {expected}, not {got}",
    "enum": "must be {expected}, not {got}",
    "too_long": "has {actual_length:,} entries, at most {max_length:,} are allowed",
}


def _sentence(found: ErrorDetails) -> str:
    context = {name: _trimmed(value) for name, value in found.get("ctx", {}).items()}
    if "error" in context:
        return str(context["error"]).rstrip(".")
    pattern = SENTENCES.get(found["type"])
    if pattern is None:
        return f"is not valid ({found['msg']})"
    got = found["input"]
    if found["type"] in ("list_type", "tuple_type", "dict_type") and isinstance(got, str):
        return pattern.format(got="text")  # may be an argument, and so a secret
    advice = "; put it in quotes" if found["type"] == "string_type" and isinstance(got, bool | int | float) else ""
    return pattern.format(got=shown(got), **context) + advice


def _trimmed(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _step(step: str | int) -> str:
    text = str(step)
    return text if text.isprintable() and 0 < len(text) <= SHOWN else shown(text)
