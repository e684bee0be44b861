"""Every example of the documentation is valid and runs: job files, Python, and each command of the shell.

A page is played from top to bottom, in a folder that holds the files which the pages show. Commands that stay, or start
processes, are run by slower tests; the few that no test can run are listed here with the reason.
"""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from batchq.spec import loads
from support import book

TESTS = book.ROOT / "tests"
LANGUAGES = {"sh", "yaml", "toml", "json", "python", "text", "mermaid", "diff"}

# Commands that another test runs, by page: its file and its name.
ELSEWHERE: dict[str, dict[str, str]] = {
    "README.md": {
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/batchq run examples/job1.yaml "
        "--server Batch1 --server Batch2": (
            "e2e/test_fresh_clone.py::test_the_first_command_of_the_readme_installs_and_runs_the_example"
        ),
        "batchq run night.yaml -A app": (
            "e2e/test_own_project_readme.py::"
            "test_the_readmes_files_run_by_its_command_with_all_that_they_do_not_name_embedded"
        ),
    },
    "docs/operations.md": dict.fromkeys(
        book.block("docs/operations.md", "control").splitlines(),
        "cli/test_operating_docs.py::test_every_command_that_holds_and_releases_runs",
    ),
    "docs/night.md": dict.fromkeys(
        book.commands("docs/night.md"), "cli/test_night.py::test_the_night_goes_as_the_page_tells"
    ),
    "docs/python.md": dict.fromkeys(
        [
            "batchq -A app db upgrade",
            "batchq -A app coordinator",
            "batchq -A app server start AOS1",
            "batchq -A app submit night.yaml",
        ],
        "e2e/test_own_project_readme.py::test_the_services_and_the_job_in_python_run_as_the_documentation_says",
    ),
}

# Commands that no test can run, and why.
CANNOT: dict[str, str] = {
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest -n auto --dist loadfile": (
        "it runs all tests, this one too; the gate runs its parts"
    ),
    "python3 -m venv .venv && . .venv/bin/activate && pip install -q -e '.[dev]'": (
        "it installs from a package index; the gate does the same in a folder of its own"
    ),
    ".ci/fast": "it runs the tests of core and engine; the gate runs its parts",
    ".ci/run": "it is the gate, which runs this test too",
    "pip install 'celery-batchq[postgres]'": (
        "it installs from a package index; the gate installs the wheel with its extras"
    ),
}

# Blocks of JSON that are no job files, by the command that prints them.
SHAPES = {"docs/cli.md": ("runs", "show", "1")}
# The page whose JSON is a schema; `test_view_schema.py` holds it.
SCHEMA = "docs/views.md"


def is_shape(block: book.Block) -> bool:
    return block.language == "json" and block.page in SHAPES


# --- job files ----------------------------------------------------------------------------------------------


def test_every_block_is_in_a_language_that_is_tried():
    assert {block.language for block in book.all_blocks()} <= LANGUAGES


@pytest.mark.parametrize("page", book.pages())
def test_no_block_is_overlooked(page: str):
    fences = [line for line in book.text(page).splitlines() if line.lstrip().startswith("```")]
    assert len(fences) == 2 * len(book.blocks(page))


def test_every_file_has_a_name_of_its_own():
    names = [block.file for block in book.files()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "block",
    [block for block in book.all_blocks("yaml", "toml", "json") if not is_shape(block) and block.page != SCHEMA],
    ids=str,
)
def test_every_job_file_is_valid(block: book.Block, batchq, tmp_path):
    path = tmp_path / f"file.{block.language}"
    path.write_text(block.text, encoding="utf-8")
    assert batchq("validate", path).stdout.startswith(f"{path}: valid, ")


def test_a_job_in_toml_and_in_json_is_the_same():
    toml, from_json = (book.blocks("docs/job-file.md", language) for language in ("toml", "json"))
    assert loads(toml[0].text, format="toml") == loads(from_json[0].text, format="json")


# --- JSON ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [block for block in book.all_blocks("json") if is_shape(block)], ids=str)
def test_the_json_that_is_shown_has_the_keys_that_are_printed(block: book.Block, batchq, batchq_json):
    batchq("submit", book.ROOT / "examples" / "job1.yaml")
    shown, printed = json.loads(block.text), batchq_json(*SHAPES[block.page])
    assert list(shown) == list(printed)
    assert list(shown["tasks"][0]) == list(printed["tasks"][0])


# --- pages --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with all files that the pages show, and the project's examples."""
    for block in book.files():
        (tmp_path / str(block.file)).write_text(block.text, encoding="utf-8")
    (tmp_path / "examples").symlink_to(book.ROOT / "examples")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in book.pages() if book.blocks(page, "sh", "python")])
def test_a_page_can_be_played_from_top_to_bottom(page: str, folder: Path, batchq):
    for command in book.commands(page):
        if command not in CANNOT and command not in ELSEWHERE.get(page, {}):
            program, *words = shlex.split(command)
            assert program == "batchq", f"{page} shows a command that no test runs: {command}"
            batchq(*words)
    for block in book.blocks(page, "python"):
        if block.file:
            play(folder, f"import {Path(block.file).stem}")
    play(folder, "\n".join(block.text for block in book.blocks(page, "python") if not block.file))


def play(folder: Path, program: str) -> None:
    """Run a program of Python's in the folder; it must end well."""
    env = {**os.environ, "BATCHQ_HOME": str(folder)}
    argv = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what runs elsewhere, or nowhere ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "command"), [(page, command) for page, commands in ELSEWHERE.items() for command in commands]
)
def test_a_command_that_runs_elsewhere_is_taken_from_its_page_there(page: str, command: str):
    assert command in book.commands(page)
    file, name = ELSEWHERE[page][command].split("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    # The test reads the page, or has the whole command, which `book.words` looks up there.
    said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert command in said


def test_every_command_that_no_test_can_run_is_still_shown():
    assert CANNOT.keys() <= {command for page in book.pages() for command in book.commands(page)}
