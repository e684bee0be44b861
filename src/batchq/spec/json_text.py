"""JSON, with the lines that Python's reader does not tell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NoReturn, TypeAlias

from batchq.core.json import JSON
from batchq.spec.faults import Path, shown
from batchq.spec.text import (
    DEPTH,
    DIGITS,
    MOST_CONTAINERS,
    MOST_VALUES,
    Tree,
    Unreadable,
    line_at,
    position,
    too_many,
)

Member: TypeAlias = tuple[str | int, int, int]

SPACE = re.compile(r"[ \t\r\n]*")
_scan = json.JSONDecoder().raw_decode


def read_json(text: str, most_tasks: int) -> Tree:
    """The value of a JSON text; a key that is there twice is refused."""
    if text.count("{") + text.count("[") > MOST_CONTAINERS:
        raise too_many(MOST_CONTAINERS, "lists and mappings")
    if text.count(",") > MOST_VALUES:
        raise too_many(MOST_VALUES, "values")
    repeated: list[tuple[dict[str, JSON], str]] = []

    def mapping(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
        value = dict(pairs)
        if len(value) != len(pairs):
            repeated.append((value, _first_repeated(pairs)))
        return value

    try:
        value = json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise Unreadable(f"is not JSON: {error.msg[:1].lower()}{error.msg[1:]}", error.lineno) from None
    except RecursionError:
        raise Unreadable(f"is nested deeper than {DEPTH} levels") from None
    except ValueError:
        raise Unreadable(f"holds a number of more than {DIGITS:,} digits") from None
    places = _Places(text, value)
    if repeated:
        places.refuse_repeated(*repeated[-1])
    return Tree(value, places.line)


def _first_repeated(pairs: list[tuple[str, JSON]]) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key is there twice")


class _Places:
    """Where the values of a JSON text stand in it; the scanner in C skips what nobody asked for."""

    def __init__(self, text: str, root: JSON) -> None:
        self.text = text
        self.root = root
        self.known: dict[int, tuple[dict[str | int, tuple[int, int]], Iterator[Member]]] = {}

    def line(self, path: Path) -> int:
        return line_at(self.text, self.find(path)[0])

    def find(self, path: Path) -> tuple[int, int]:
        """Where the last step of `path` that is there stands, and where its value does."""
        begin = index = _skip(self.text, 0)
        value = self.root
        for step in path:
            place = position(value, step)
            if place is None:
                break
            key = step if isinstance(value, dict) else place
            begin, index = self.member(index, key)
            value = value[key]
        return begin, index

    def member(self, index: int, key: str | int) -> tuple[int, int]:
        """The places of one member of the mapping or list at `index`; looks no further than it has to."""
        passed, rest = self.known.setdefault(index, ({}, _members(self.text, index)))
        while key not in passed:
            name, begin, inner = next(rest)
            passed[name] = (begin, inner)
        return passed[key]

    def refuse_repeated(self, holder: dict[str, JSON], key: str) -> NoReturn:
        path = next(path for path, value in _walk(self.root) if value is holder)
        begins = [begin for name, begin, _ in _members(self.text, self.find(path)[1]) if name == key]
        raise Unreadable(f"the key {shown(key)} is there twice", line_at(self.text, begins[1]))


def _walk(root: JSON) -> Iterator[tuple[Path, JSON]]:
    stack: list[tuple[Path, JSON]] = [((), root)]
    while stack:
        path, value = stack.pop()
        yield path, value
        if isinstance(value, dict):
            stack.extend(((*path, key), inner) for key, inner in value.items())
        elif isinstance(value, list):
            stack.extend(((*path, index), inner) for index, inner in enumerate(value))


def _members(text: str, index: int) -> Iterator[Member]:
    """Each key, or number, in the mapping or list at `index`; where it stands, and where its value does."""
    keyed = text[index] == "{"
    count = 0
    index = _skip(text, index + 1)
    while text[index] not in "}]":
        begin = index
        name: str | int = count
        if keyed:
            name, index = _scan(text, index)
            index = _skip(text, _skip(text, index) + 1)
        yield name, begin, index
        index = _skip(text, _scan(text, index)[1])
        if text[index] == ",":
            index = _skip(text, index + 1)
        count += 1


def _skip(text: str, index: int) -> int:
    found = SPACE.match(text, index)
    return found.end() if found else index
