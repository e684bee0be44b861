"""Foreign text made harmless for terminals and logs: characters that move, hide or forge are escaped."""

from __future__ import annotations

import json
import re

# Text of several lines may keep these.
LINES = "\n\t"


def printable(text: str, keep: str = "") -> str:
    """The text with every unprintable character escaped, except those to `keep`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def printable_json(text: str) -> str:
    """JSON text with unprintable characters escaped in JSON's own way, so that its values stay the same."""
    return re.sub(r"[^\n\x20-\x7e]", lambda match: _in_json(match[0]), text)


def _in_json(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]
