"""YAML 1.2 by its core schema, without tags: keys are text, and so are `08:00` and `on`."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable
from typing import TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

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
    one_line,
    position,
    too_many,
)

Scalar: TypeAlias = str | int | float | bool | None

# The reader in Python takes 4 s for 1 MB. The one in C, if it is installed, takes 0.2 s, but it follows
# YAML 1.1 in one thing that people write: in {start: 08:00} it asks for quotes.
PURE_CHARS = 128 * 1024
MOST_ENTRIES = 100_000  # of a mapping or list, or as many as there may be tasks
MOST_ALIASED = 10_000  # values that all aliases of a file stand for

# A line with % before a document or after its end: it could ask for YAML 1.1, and many take long to read.
DIRECTIVE = re.compile(r"(?:\A|^\.\.\.[^\n]*\n)(?:[ \t]*+(?:#[^\n]*+)?+\r?\n)*+%", re.MULTILINE)
# Control characters, and what only YAML 1.1 takes for line breaks.
ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")
NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
BASES = {"0x": (16, re.compile("0x[0-9a-fA-F]+")), "0o": (8, re.compile("0o[0-7]+"))}
WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def read_yaml(text: str, most_tasks: int) -> Tree:
    """The one document of a YAML text."""
    if directive := DIRECTIVE.search(text):
        raise Unreadable("a directive, a line with % at its start, is not allowed", line_at(text, directive.end()))
    if odd := ODD.search(text):
        raise Unreadable(f"holds U+{ord(odd[0]):04X}; write it as an escape", line_at(text, odd.start()))
    building = _Building(most_tasks)
    try:
        building.build(YAML(typ="safe", pure=len(text) <= PURE_CHARS).parse(text))
    except YAMLError as error:
        raise _not_yaml(error) from None
    except ValueError as error:  # an escape beyond Unicode
        raise Unreadable(f"is not YAML: {one_line(error)}") from None
    return Tree(building.root, building.line)


def _not_yaml(error: YAMLError) -> Unreadable:
    mark = (error.problem_mark or error.context_mark) if isinstance(error, MarkedYAMLError) else None
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    advice = "; put text with a colon in quotes" if said == "found unexpected ':'" else ""
    return Unreadable(f"is not YAML: {one_line(said)}{advice}", mark.line + 1 if mark else None)


def _plain(word: str, line: int) -> Scalar:
    """The value of a plain scalar (YAML 1.2, core schema)."""
    if word in WORDS:
        return WORDS[word]
    if word[0] not in "0123456789+-.":
        return word
    if NUMBER.fullmatch(word):
        return _whole(word, 10, line) if word.lstrip("+-").isdecimal() else float(word)
    base, pattern = BASES.get(word[:2], (0, None))
    return _whole(word, base, line) if pattern and pattern.fullmatch(word) else word


def _whole(word: str, base: int, line: int) -> int:
    if len(word) > DIGITS:
        raise Unreadable(f"holds a number of more than {DIGITS:,} digits", line)
    return int(word, base)


class _Open:
    """A mapping or list that is being read."""

    __slots__ = ("anchor", "before", "key", "keyed", "line", "lines", "value")

    def __init__(self, value: JSON, line: int, before: int, anchor: str | None) -> None:
        self.value = value
        self.keyed = type(value) is dict
        self.key: str | None = None
        self.line = line  # of its key, or where it starts
        self.lines: list[int] = []  # of its keys or items
        self.before = before  # values read before it
        self.anchor = anchor


class _Building:
    """Puts values together from events; keeps the lines of a mapping or list only if it has several."""

    def __init__(self, most_tasks: int) -> None:
        self.most_tasks = most_tasks
        self.most_entries = max(most_tasks, MOST_ENTRIES)
        self.tasks = 0
        self.values = 0
        self.containers = 0
        self.aliased = 0
        self.documents: list[JSON] = []
        self.top = _Open(self.documents, 1, 0, None)
        self.open = [self.top]
        self.lines: dict[int, array[int]] = {}
        self.anchors: dict[str, tuple[JSON, int]] = {}
        self.steps: dict[type, Callable[..., None]] = {
            ScalarEvent: self.scalar,
            MappingStartEvent: self.start,
            SequenceStartEvent: self.start,
            MappingEndEvent: self.end,
            SequenceEndEvent: self.end,
            AliasEvent: self.alias,
        }

    def build(self, events: Iterable[Event]) -> None:
        """Take all events of a text."""
        step_for = self.steps.get
        for event in events:
            step = step_for(type(event))
            if step is not None:
                step(event)

    @property
    def root(self) -> JSON:
        return self.documents[0] if self.documents else None

    def scalar(self, event: ScalarEvent) -> None:
        line = event.start_mark.line + 1
        if event.tag is not None:
            raise _tagged(event.tag, line)
        if self.top.keyed and self.top.key is None:
            self.key(event.value, line)
            return
        value = _plain(event.value, line) if event.implicit[0] else event.value
        self.put(value, line)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, 1)

    def key(self, key: str, line: int) -> None:
        top = self.top
        if key in top.value:
            raise Unreadable(f"the key {shown(key)} is there twice", line)
        if self.tasks + len(top.value) >= self.most_tasks and self.in_tasks():
            raise too_many(self.most_tasks, "tasks", line)
        if len(top.value) >= self.most_entries:
            raise too_many(self.most_entries, "entries in a mapping", line)
        top.key = key
        top.lines.append(line)

    def put(self, value: JSON, line: int) -> None:
        top = self.top
        self.values += 1
        if self.values > MOST_VALUES:
            raise too_many(MOST_VALUES, "values", line)
        if top.key is not None:
            top.value[top.key] = value
            top.key = None
        elif top.keyed:
            raise Unreadable("a key must be text", line)
        else:
            if len(top.value) >= self.most_entries:
                raise too_many(self.most_entries, "entries in a list", line)
            if top.value is self.documents and top.value:
                raise Unreadable("a second document begins here; make it a file of its own", line)
            top.value.append(value)
            top.lines.append(line)

    def start(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        line = event.start_mark.line + 1
        if event.tag is not None:
            raise _tagged(event.tag, line)
        if len(self.open) > DEPTH:
            raise Unreadable(f"is nested deeper than {DEPTH} levels", line)
        self.containers += 1
        if self.containers > MOST_CONTAINERS:
            raise too_many(MOST_CONTAINERS, "lists and mappings", line)
        value: JSON = {} if type(event) is MappingStartEvent else []
        before = self.values
        self.put(value, line)
        self.top = _Open(value, self.top.lines[-1], before, event.anchor)
        self.open.append(self.top)

    def end(self, event: Event) -> None:
        if self.in_tasks():
            self.tasks += len(self.top.value)
        done = self.open.pop()
        self.top = self.open[-1]
        if done.lines and done.lines[-1] != done.line:
            self.lines[id(done.value)] = array("I", done.lines)
        if done.anchor is not None:
            self.anchors[done.anchor] = (done.value, self.values - done.before)

    def alias(self, event: AliasEvent) -> None:
        line = event.start_mark.line + 1
        if event.anchor not in self.anchors:
            raise Unreadable(f"no anchor named {shown(event.anchor)} stands before this alias", line)
        value, values = self.anchors[event.anchor]
        self.aliased += values
        if self.aliased > MOST_ALIASED:
            raise too_many(MOST_ALIASED, "values behind aliases", line)
        self.put(value, line)
        self.values += values - 1

    def in_tasks(self) -> bool:
        """Whether the innermost open mapping holds the tasks of a job."""
        if len(self.open) == 3:
            return _newest(self.open[1]) == "tasks"
        return len(self.open) == 5 and _newest(self.open[1]) == "jobs" and _newest(self.open[3]) == "tasks"

    def line(self, path: Path) -> int:
        line, value = self.top.lines[0] if self.documents else 1, self.root
        for step in path:
            index = position(value, step)
            if index is None:
                break
            if id(value) in self.lines:
                line = self.lines[id(value)][index]
            value = value[step] if isinstance(value, dict) else value[index]
        return line


def _tagged(tag: str, line: int) -> Unreadable:
    return Unreadable(f"the tag {shown(tag.replace('tag:yaml.org,2002:', '!!', 1))} is not allowed", line)


def _newest(opened: _Open) -> str | None:
    return next(reversed(opened.value), None) if type(opened.value) is dict else None
