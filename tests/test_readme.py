"""The README tells the truth: what is drawn or listed there comes from the code, and its commands run."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchq import Current
from batchq.cli import cli
from batchq.config import Settings
from batchq.core.states import LABELS, MOVES, State

README = Path(__file__).parent.parent / "README.md"


def part(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README.read_text(encoding="utf-8"), re.S)
    assert found, name
    return found[1]


def state_diagram() -> str:
    lines = [f"    {before} --> {after}" for before in State for after in State if after in MOVES[before]]
    first = ["    [*] --> waiting"]
    return "\n".join(["```mermaid", "stateDiagram-v2", *first, *lines, "```", ""])


def settings_table() -> str:
    rows = [
        f"| `{name}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | default | what it is |", "|---|---|---|", *rows, ""])


def _default(value: object) -> str:
    return "" if value in (None, "") else f"`{value}`"


@pytest.mark.parametrize(("name", "wanted"), [("states", state_diagram()), ("settings", settings_table())])
def test_what_the_readme_shows_is_made_from_the_code(name: str, wanted: str):
    assert part(name) == wanted


def test_what_the_readme_promises_of_current_is_what_it_has():
    (promise,) = re.findall(r"`batchq\.current\(\)` has ([^.]*)\.", README.read_text(encoding="utf-8"))
    assert re.findall(r"`(\w+)`", promise) == [field.name for field in fields(Current)]


def test_whoever_names_the_distribution_names_one_that_there_is():
    project = tomllib.loads((README.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folders = (README.parent / name for name in ("src", "deploy", "examples"))
    files = [README, *(path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file())
    named = re.findall(r"\b(?:pip install (?:-\S+ )*['\"]?([a-z][\w-]*)|(\w[\w-]*)\[postgres\])", text)
    assert {one or other for one, other in named} - {"atheris", "flask", "django"} == {project["name"]}
    extras = set(re.findall(rf"{project['name']}\[(\w+)\]", text))
    assert "postgres" in extras
    assert extras <= project["optional-dependencies"].keys()


def test_every_state_has_a_word_for_people():
    assert {state.value for state in State} <= LABELS.keys()


def test_the_plan_that_the_readme_shows_is_what_its_command_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(README.parent)
    monkeypatch.setenv("BATCHQ_HOME", str(tmp_path))
    command, shown = re.findall(r"```\w+\n(.*?)```", part("plan"), re.S)
    printed = CliRunner().invoke(cli, shlex.split(command)[1:]).stdout
    pieces = [piece.strip("\n") for piece in shown.split("…\n")]
    assert all(piece in printed for piece in pieces if piece)
