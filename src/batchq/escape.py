"""What others said, made harmless before a terminal or a log shows it: escaped is all that moves, hides or forges."""

from __future__ import annotations

import json
import re

# What text of several lines may hold as it is.
LINES = "\n\t"


def printable(text: str, keep: str = "") -> str:
    """The text with all escaped that could move the cursor, hide, or end the line; but for characters to `keep`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def printable_json(text: str) -> str:
    """JSON text with the same escaped as JSON does it, so that it says what it said."""
    return re.sub(r"[^\n\x20-\x7e]", lambda match: _in_json(match[0]), text)


def _in_json(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]
