"""The errors: the tree as it is drawn in its module, their codes, and their next steps in Python and as commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from importlib import import_module
from pathlib import Path

import click
import pytest

import batchq
from batchq import embedded, errors
from batchq.cli import cli, wording
from batchq.errors import Action, Advice, BatchqError, DatabaseOutdated, DatabaseRefuses, InvalidInput

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


# --- codes and facts ----------------------------------------------------------------------------------------


def kinds() -> list[type[BatchqError]]:
    """Every class of error, also those that stand elsewhere."""
    return [*(getattr(errors, path[-1]) for path, _ in drawn()), *ELSEWHERE]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_the_code_of_an_error_is_its_own_and_spells_its_name(kind: type[BatchqError]):
    assert vars(kind)["code"] == re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


def test_no_two_errors_have_one_code():
    assert len({kind.code for kind in kinds()}) == len(kinds())


def test_an_error_holds_its_facts_its_sentence_and_its_next_step_apart():
    error = DatabaseOutdated(url="sqlite:///here.db", fact="holds no batchq tables yet")
    assert error.facts == {"url": "sqlite:///here.db", "fact": "holds no batchq tables yet"}
    assert error.sentence == "The database sqlite:///here.db holds no batchq tables yet."
    assert error.advice == Advice("Run {} first.", Action.UPGRADE)


def test_an_error_can_be_raised_with_a_next_step_of_its_own_or_none():
    error = DatabaseRefuses(url="sqlite://", reason="disk full", advice="Free some room.")
    assert str(error) == "The database sqlite:// refuses (disk full). Free some room."
    assert str(InvalidInput("It is {empty}.")) == "It is {empty}."
    assert errors.unknown("job", "J{}", ["J1"]).facts == {"kind": "job", "name": "J{}"}


# --- next steps ---------------------------------------------------------------------------------------------


def test_python_names_the_action_in_python_and_the_command_line_names_its_command():
    error = errors.unknown("task", "T{}", [], advice=Advice("{} shows them.", Action.LIST_TASKS, ("7{}",)))
    assert str(error) == "No task 'T{}'. `batchq.views.run_view` shows them."
    assert wording.told(error) == "No task 'T{}'. `batchq task list 7{}` shows them."


def test_the_log_of_a_process_that_the_program_started_names_commands():
    shows = "from batchq.errors import Action, Advice; print(Advice('Run {}.', Action.UPGRADE).told())"
    begins = (
        "import batchq.cli, sys; sys.argv = ['batchq', '--version']\ntry: batchq.cli.main()\nexcept SystemExit: pass\n"
    )
    words = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        for code in (shows, begins + shows)
    ]
    assert words == ["Run `batchq.store.schema.upgrade`.", "Run `batchq db upgrade`."]


@pytest.mark.parametrize("action", Action)
def test_each_action_is_there_under_its_name_in_python(action: Action):
    name = errors.IN_PYTHON[action]
    module, attributes = name, []
    while module not in sys.modules and not is_module(module):
        module, _, attribute = module.rpartition(".")
        attributes.insert(0, attribute)
    assert attributes
    assert callable(reduce(getattr, attributes, import_module(module)))


def is_module(name: str) -> bool:
    try:
        import_module(name)
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("action", Action)
def test_each_action_has_a_command_that_is_there(action: Action):
    found: click.Command = cli
    for word in wording.COMMANDS[action].split():
        if not isinstance(found, click.Group):
            break
        inner = found.get_command(click.Context(found), word)
        assert inner is not None, f"no command {word}"
        found = inner
    assert not isinstance(found, click.Group)


def test_no_action_is_named_twice_and_none_is_missing():
    assert set(errors.IN_PYTHON) == set(wording.COMMANDS) == set(Action)


def texts(path: Path) -> Iterator[str]:
    """The texts of a module but for docstrings, which nobody is told."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    unsaid = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in unsaid:
            yield node.value


def test_only_the_command_line_names_commands():
    root = Path(batchq.__file__).parent
    below = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in {"cli", "__main__.py"}]
    assert [(path.name, text) for path in below for text in texts(path) if "`batchq " in text] == []
    assert any("`batchq " in text for text in texts(root / "cli" / "wording.py"))
