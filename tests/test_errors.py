"""The tree of errors, as it is drawn in its module."""

from __future__ import annotations

import re
from collections.abc import Iterator

from batchq import embedded, errors

DRAWN = re.compile(r"^(?P<lines>[│├└─ ]*)(?P<name>\w+)(?: +(?P<code>\d)\b.*)?$")
ELSEWHERE = {embedded.StartFailed}


def drawn() -> Iterator[tuple[list[str], int]]:
    """The names from the root to each error of the picture, and its exit code: without one it has its parent's."""
    names: list[str] = []
    codes: list[int] = []
    for line in str(errors.__doc__).splitlines():
        if line.startswith("    ") and (found := DRAWN.match(line[4:])):
            depth = len(found["lines"]) // 4
            names[depth:] = [found["name"]]
            codes[depth:] = [int(found["code"] or codes[depth - 1])]
            yield names.copy(), codes[depth]


def defined(kind: type[errors.BatchqError], above: list[str]) -> Iterator[tuple[list[str], int]]:
    path = [*above, kind.__name__]
    yield path, kind.exit_code
    for below in kind.__subclasses__():
        if below not in ELSEWHERE and below.__module__.startswith("batchq."):
            yield from defined(below, path)


def test_the_picture_shows_every_error_below_its_parent_with_its_exit_code():
    assert sorted(drawn()) == sorted(defined(errors.BatchqError, []))


def test_every_error_says_what_it_means():
    assert all(vars(getattr(errors, path[-1])).get("__doc__") for path, _ in drawn())
