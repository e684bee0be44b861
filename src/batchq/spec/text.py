"""The common ground of the readers of YAML, TOML and JSON: a text becomes plain values that know their lines.

No reader recurses, and what is too much is refused while it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from batchq.core.json import JSON
from batchq.spec.faults import Path

LineOf: TypeAlias = Callable[[Path], int | None]

DEPTH = 100
DIGITS = 4000
MOST_VALUES = 1_500_000
MOST_CONTAINERS = 600_000  # lists and mappings


class Unreadable(Exception):
    """The text is not what its format asks for; `line` counts from 1, None = unknown."""

    def __init__(self, sentence: str, line: int | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.line = line


@dataclass(frozen=True)
class Tree:
    """The plain values of a text; `line` finds the line of a path, or of the last step of it that is there."""

    value: JSON
    line: LineOf


def decoded(content: bytes) -> str:
    """The text of a file: UTF-8, with or without a mark, and no NUL."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"is not UTF-8 text (byte 0x{content[error.start]:02x})", line) from None
    nul = text.find("\0")
    if nul >= 0:
        raise Unreadable("holds a NUL character, so it is no text file", line_at(text, nul))
    return text


def line_at(text: str, index: int) -> int:
    """The line of a place in the text, from 1."""
    return text.count("\n", 0, index) + 1


def too_many(most: int, what: str, line: int | None = None) -> Unreadable:
    """The refusal of a text that holds more than `most` of something."""
    return Unreadable(f"more than {most:,} {what} are not allowed", line)


def one_line(said: object) -> str:
    """Return a library's message as part of a sentence."""
    return " ".join(str(said).split())[:200].rstrip(".")


def position(value: object, step: str | int) -> int | None:
    """Where a step stands in a mapping or list; a name also finds the list item that is or holds it."""
    if isinstance(value, dict):
        return list(value).index(str(step)) if step in value else None
    if not isinstance(value, list):
        return None
    if isinstance(step, int):
        return step if step < len(value) else None
    named = (i for i, item in enumerate(value) if item == step or (isinstance(item, dict) and step in item))
    return next(named, None)
