"""How much of the package the type checker cannot see: `Any`, and the comments that silence it, are counted."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchq

ROOT = Path(batchq.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
# The one room where the objects of Celery, kombu, billiard and amqp get their types, as they have none.
FOREIGN = ROOT / "server" / "celery_types"
MOST_ANY = 40
MOST_SILENCED = 10
SILENCED = re.compile(r"#\s*type:\s*ignore")
# Which rule is silenced, then why.
WITH_REASON = re.compile(r"# type: ignore\[[\w, -]+\]  # \w.+")


def anys(source: str) -> list[int]:
    """The lines on which a module says `Any`, a line twice if it says it twice; its import is none."""
    nodes = ast.walk(ast.parse(source))
    named = (node for node in nodes if isinstance(node, ast.Name | ast.Attribute))
    return sorted(node.lineno for node in named if "Any" in (getattr(node, "id", None), getattr(node, "attr", None)))


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """The comments of a module, each with its line."""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def silenced() -> list[str]:
    """The comments that silence the type checker, with their places."""
    return [
        f"{path.relative_to(ROOT)}:{line} {comment}"
        for path in MODULES
        for line, comment in comments(path)
        if SILENCED.search(comment)
    ]


def test_few_values_of_our_own_have_no_type():
    ours = {path: anys(path.read_text(encoding="utf-8")) for path in MODULES if FOREIGN not in path.parents}
    found = [f"{path.relative_to(ROOT)}:{line}" for path, lines in ours.items() for line in lines]
    assert len(found) <= MOST_ANY, found


@pytest.mark.parametrize("path", sorted(FOREIGN.glob("*.py")), ids=lambda path: path.name)
def test_the_room_of_foreign_types_holds_protocols_and_names_alone(path: Path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            assert [base.id for base in node.bases if isinstance(base, ast.Name)] == ["Protocol"]
            assert ast.get_docstring(node)
        else:
            assert isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.Expr)


def test_the_type_checker_is_seldom_silenced_and_never_without_a_reason():
    assert len(silenced()) <= MOST_SILENCED, silenced()
    assert [each for each in silenced() if not WITH_REASON.search(each)] == []


@pytest.mark.parametrize(
    "source",
    [
        "def f(given: Any): ...",
        "def f() -> list[Any]: ...",
        "def f(*args: Any): ...",
        "name: dict[str, Any] = {}",
        "Json = dict[str, Any]",
        "class Row(Base[Any]): ...",
        "class Row:\n    value: typing.Any",
        "found = cast(Any, value)",
    ],
)
def test_each_place_of_an_untyped_value_is_found(source: str):
    assert len(anys(source)) == 1


@pytest.mark.parametrize("source", ["from typing import Any", '"""Any id."""', "# Any\nname: object = 1"])
def test_a_word_that_types_nothing_is_none(source: str):
    assert anys(source) == []


@pytest.mark.parametrize(
    ("comment", "well"),
    [
        ("# type: ignore[misc]  # the plugin's column of that name", True),
        ("# type: ignore[misc, assignment]  # why", True),
        ("# type: ignore[misc]", False),
        ("# type: ignore  # why", False),
    ],
)
def test_a_reason_stands_behind_the_rule_that_is_silenced(comment: str, well: bool):
    assert SILENCED.search(comment)
    assert bool(WITH_REASON.search(comment)) is well
