"""What others said, made harmless before a terminal or a log shows it: escaped is all that moves, hides or forges."""

from __future__ import annotations

import copy
import json
import logging
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


class Escaped(logging.Formatter):
    """A formatter around another one: a record's message is one line, and its traceback no more than text."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """The record as the inner formatter has it, which may add colours of its own."""
        shown = copy.copy(record)
        shown.msg, shown.args = printable(record.getMessage(), "\t"), None
        if record.exc_info and record.exc_info[0] is not None:
            shown.exc_text = printable(self.inner.formatException(record.exc_info), LINES)
        if record.stack_info:
            shown.stack_info = printable(record.stack_info, LINES)
        return self.inner.format(shown)


def escape_logs() -> None:
    """Let every handler of this process that writes to a terminal or a file write nothing raw."""
    named = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    for logger in [logging.root, *named]:
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler.formatter, Escaped):
                handler.setFormatter(Escaped(handler.formatter or logging.Formatter()))
