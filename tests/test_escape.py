"""Escaping: what could move the cursor, hide or forge is shown, all else stays as it is."""

from __future__ import annotations

import json
import logging

import pytest

from batchq.cli.program import Failure
from batchq.errors import NotFound
from batchq.escape import LINES, printable, printable_json
from batchq.server.logs import Escaped

HIDDEN = [
    "\0",
    "\x1b",
    "\r",
    "\x7f",
    "\x85",
    "\x9b",
    "\u200b",
    "\u202a",
    "\u202e",
    "\u2066",
    "\u2069",
    "\u2028",
    "\u2029",
    "\ud800",
    "\ufeff",
    "\U000e0041",
]


@pytest.mark.parametrize("character", HIDDEN, ids=ascii)
def test_it_is_shown_in_text_and_in_json_as_it_is_escaped(character: str) -> None:
    text = f"Задача {character} 漢字 é"
    shown = printable(text, LINES)
    assert character not in shown
    assert shown.startswith("Задача \\")
    assert shown.endswith(" 漢字 é")
    told = printable_json(json.dumps({"a": text}, indent=2, ensure_ascii=False))
    assert character not in told
    assert json.loads(told) == {"a": text}
    assert "Задача" in told


def test_lines_stay_where_text_has_lines() -> None:
    assert printable("a\n\tb", LINES) == "a\n\tb"
    assert printable("a\n\tb") == "a\\n\\tb"


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    told = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("x", logging.INFO, __file__, 1, message, args, told)  # type: ignore[arg-type]


def test_a_record_is_one_line_and_its_traceback_keeps_its_lines() -> None:
    formatter = Escaped(logging.Formatter("\x1b[31m%(levelname)s\x1b[0m %(message)s"))
    assert formatter.format(record("%s!", "a\nb\x1b")) == "\x1b[31mINFO\x1b[0m a\\nb\\x1b!"
    try:
        raise ValueError("c\x1b[2J")
    except ValueError as error:
        lines = formatter.format(record("failed", error=error)).split("\n")
    assert lines[1] == "  Traceback (most recent call last):"
    assert lines[-1] == "  ValueError: c\\x1b[2J"
    assert all(line.startswith("  ") for line in lines[1:])


def test_what_another_handler_keeps_of_a_record_is_what_was_said() -> None:
    said = record("%s", "a\x1b")
    Escaped(logging.Formatter()).format(said)
    assert said.getMessage() == "a\x1b"


def test_an_error_of_ours_that_cites_a_name_shows_it_escaped() -> None:
    assert Failure(NotFound("No server \x1b[2J\u202e.")).message == "No server \\x1b[2J\\u202e."
