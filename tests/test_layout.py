"""The picture of the architecture, held against the code: imports point down, and `core` stays pure."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchq
from support import book

ROOT = Path(batchq.__file__).parent
TESTS = Path(__file__).parent
# From the ground up; a module imports from its own floor and from those below.
FLOORS = [
    # `lazy` is for the `__init__` of packages on every floor.
    {"errors", "lazy"},
    {"core"},
    # `escape` serves the logs of the server and the tables of the CLI, so it stands below both.
    {"clock", "config", "crash", "escape", "spec", "user"},
    {"store"},
    {"engine"},
    # It calls every verb of the engine, and no verb may call it: a transaction would begin within another one.
    {"aside"},
    {"views"},
    {"actions", "planning"},
    {"testing"},
    {"coordinator", "server"},
    # They are the parts of `app`, and know nothing of each other.
    {"brokers", "catalogue", "discovery", "launch", "operations"},
    {"app"},
    {"embedded", "web"},
    {"cli"},
    {"__main__"},
]
# The nouns that people know, and the floors on which each has a file of its name.
NOUNS = {
    "run": ["store", "views", "actions", "cli"],
    "task": ["views", "actions", "cli"],
    "job": ["store", "views", "actions", "cli"],
    "group": ["store", "views", "actions", "cli"],
    "limit": ["store", "views", "actions", "cli"],
    "server": ["store", "views", "actions", "cli"],
    "audit": ["store", "views", "cli"],
}
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
IMPURE = {"os", "time", "random", "socket", "subprocess", "sqlalchemy", "sqlmodel", "celery", "kombu", "logging"}

# A kind of database by its name, its driver's, or that of a module about it alone; and the questions which kind it is.
KIND = re.compile(r"sqlite|postgres|psycopg|store\.sql\.(?:session|wire)|dialect\.name|database\.kind", re.IGNORECASE)
# Its dialect; what reads a URL or tells people about one; migrations as released; rehearsals, which are in memory.
NAMES_KINDS = ("store/sql", "config.py", "store/address.py", "store/migrations", "testing/clocked.py")


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.name != "__init__.py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path):
    own = FLOOR[room(path)]
    for name in imports(path):
        package, _, rest = name.partition(".")
        there = rest.partition(".")[0]
        if package == "batchq" and there in FLOOR:
            assert FLOOR[there] <= own, f"{path.name} imports {name}, which stands above it"


def test_the_rooms_are_drawn_from_top_to_bottom():
    table = book.rows(book.text("docs/architecture.md").partition("## Where things live")[2])
    rows = [re.findall(r"`(\w+)`", row[0]) for row in table]
    assert {name for row in rows for name in row} == FLOOR.keys() - {"__main__"}
    assert all(len({FLOOR[name] for name in row}) == 1 for row in rows)
    floors = [FLOOR[row[0]] for row in rows]
    assert floors == sorted(floors, reverse=True)


@pytest.mark.parametrize(("noun", "floor"), [(noun, floor) for noun, floors in NOUNS.items() for floor in floors])
def test_a_noun_has_its_file_on_each_of_its_floors(noun: str, floor: str):
    # A command's file may be named as people type it: `batchq runs`.
    names = {noun, f"{noun}s"} if floor == "cli" else {noun}
    assert any((ROOT / floor / f"{name}.py").exists() for name in names)


@pytest.mark.parametrize("path", sorted((ROOT / "core").glob("*.py")), ids=lambda path: path.name)
def test_core_knows_no_clock_no_sql_no_celery_and_no_environment(path: Path):
    assert not {name.partition(".")[0] for name in imports(path)} & IMPURE
    source = path.read_text(encoding="utf-8")
    assert ".now(" not in source
    assert ".today(" not in source


def code(path: Path) -> str:
    """The module without its comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_its_own_module_knows_a_kind_of_database(path: Path):
    here = path.relative_to(ROOT)
    if not any(here.is_relative_to(place) for place in NAMES_KINDS):
        assert not KIND.findall(code(path)), "make it a question of `Dialect` in store/sql/dialect.py"


@pytest.mark.parametrize("name", ["batchq", "batchq.cli", "batchq.app", "batchq.testing.plugin"])
def test_what_others_import_first_stays_light(name: str):
    code = f"import sys, {name}; print(*sorted({{'sqlmodel', 'sqlalchemy', 'rich', 'alembic'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = loaded.stdout.split()
    assert heavy == (["sqlalchemy"] if name == "batchq.app" else [])


def test_what_tests_of_several_folders_import_lies_in_support_or_in_the_drills():
    rooms = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    assert {"core", "e2e"} <= rooms
    for path in TESTS.rglob("*.py"):
        own = path.relative_to(TESTS).parts[0]
        there = {name.partition(".")[0] for name in imports(path)}
        assert not there & rooms - {own}, path
