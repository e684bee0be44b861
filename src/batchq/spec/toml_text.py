"""TOML, with the lines that Python's reader does not tell."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from functools import cache, partial

from batchq.spec.faults import Path
from batchq.spec.text import DEPTH, Tree, Unreadable, line_at, one_line

TOML_CHARS = 512 * 1024  # its reader is slow
# The reader's time grows with the square of a key's parts.
LONG_KEY = re.compile(r"""(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){40}""")
TOML_ERROR = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)


def read_toml(text: str, most_tasks: int) -> Tree:
    """The tables of a TOML text."""
    if len(text) > TOML_CHARS:
        raise Unreadable(f"is TOML of more than {TOML_CHARS:,} characters; write it as YAML or JSON")
    if long_key := LONG_KEY.search(text):
        raise Unreadable("a key of more than 40 parts is not allowed", line_at(text, long_key.start()))
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = TOML_ERROR.fullmatch(str(error))
        line = int(said[2]) if said and said[2] else text.rstrip().count("\n") + 1
        raise Unreadable(f"is not TOML: {one_line(said[1] if said else error)}", line) from None
    except RecursionError:
        raise Unreadable(f"is nested deeper than {DEPTH} levels") from None
    except ValueError:
        raise Unreadable("holds a number or a date that cannot be") from None
    lines = cache(partial(_toml_lines, text))
    return Tree(value, lambda path: _deepest(lines(), path))


def _deepest(lines: dict[Path, int], path: Path) -> int | None:
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)


def _toml_lines(text: str) -> dict[Path, int]:
    """The line of each path; each line is read by itself, so a long text that holds keys leads astray."""
    lines: dict[Path, int] = {}
    tables: Counter[Path] = Counter()
    table: Path = ()
    for number, line in enumerate(text.split("\n"), 1):
        header = line.lstrip().startswith("[")
        path = _toml_path(line if header else line.partition("=")[0] + "= 0")
        if path and header:
            table = (*path, tables[path]) if "[[" in line else path
            tables[path] += 1
            lines[table] = number
        elif path:
            lines[(*table, *path)] = number
    return lines


def _toml_path(line: str) -> Path:
    """The path that a line of TOML opens or sets; nothing if it is not whole by itself."""
    try:
        value: object = tomllib.loads(line)
    except (ValueError, RecursionError):
        return ()
    path: list[str] = []
    while isinstance(value, dict) and value:
        path.append(next(iter(value)))
        value = value[path[-1]]
        if isinstance(value, list):
            value = value[0]
    return tuple(path)
