"""Docstrings begin with a verb or a noun of the domain: a reader in a hurry understands them at first sight."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchq

ROOT = Path(batchq.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
# Each of these makes the reader wait for the noun that it stands for.
NO_BEGINNING = re.compile(r"(what(ever)?|those|so many|the same|such|it|they|that|this|who(ever)?)\b", re.IGNORECASE)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(path: Path) -> Iterator[tuple[str, str]]:
    """The docstrings of a module, each with the name of what it stands in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "the module"), text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_begins_with_a_word_that_stands_for_another(path: Path):
    assert [(name, text.splitlines()[0]) for name, text in documented(path) if NO_BEGINNING.match(text)] == []


@pytest.mark.parametrize(
    "text", ["What is left.", "Those that wait.", "So many rows.", "The same for rows.", "Such a row."]
)
def test_a_beginning_that_says_nothing_is_found(text: str):
    assert NO_BEGINNING.match(text)


@pytest.mark.parametrize(
    "text", ["Whether it waits.", "Thread of a server.", "Items that wait.", "Return the same row."]
)
def test_a_beginning_that_names_something_is_none(text: str):
    assert not NO_BEGINNING.match(text)


def undocumented(path: Path) -> list[str]:
    """The public functions and classes of a module that have no docstring."""
    found = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    public = [node for node in found if isinstance(node, kinds) and not node.name.startswith("_")]
    return sorted({node.name for node in public} - {node.name for node in public if ast.get_docstring(node)})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_of_a_module_has_a_docstring(path: Path):
    # A migration that has been released stays as it is.
    if "versions" not in path.parts:
        assert undocumented(path) == []
