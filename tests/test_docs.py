"""The documentation tells the truth: what is drawn or listed there comes from the code, and leads somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from batchq import Current
from batchq.cli import cli
from batchq.config import Settings
from batchq.core.states import LABELS, State
from batchq.server.options import UNFIT
from batchq.spec import loads
from batchq.spec.model import GroupSpec, JobSpec, ServerSpec, Spec, TaskSpec, WindowSpec
from support import book
from support.job1 import TABLE, Row

GENERATE = runpy.run_path(str(book.ROOT / "docs" / "generate.py"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Variables of ours that are no settings.
FOR_TESTS = {"BATCHQ_CRASH", "BATCHQ_CLOCK"}
# How PostgreSQL shows a process, which is no command.
SHOWN = {"server AOS1"}
# Where the paths of the recipes begin.
ROOTS = (book.ROOT, book.ROOT / "src" / "batchq")
MANUALS = [
    "deploy/README.md",
    "benchmarks/README.md",
    *(f"examples/{name}/README.md" for name in ("plain", "flask", "django")),
]


# --- what comes from the code -------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in book.pages() if page.startswith("docs/")])
def test_what_a_page_shows_of_the_code_is_made_from_it(page: str):
    shown = book.text(page)
    assert shown == GENERATE["written"](shown), f"{page} is out of date. Run: {GENERATE['COMMAND']}"


def test_every_part_that_can_be_made_stands_on_a_page():
    whole = "".join(map(book.text, book.pages()))
    assert {name for name in GENERATE["PARTS"] if f"<!-- {name} -->" in whole} == GENERATE["PARTS"].keys()


def test_what_is_promised_of_current_is_what_it_has():
    (promise,) = re.findall(r"`batchq\.current\(\)` has ([^.]*)\.", book.text("docs/python.md"))
    assert re.findall(r"`(\w+)`", promise) == [field.name for field in fields(Current)]


def test_whoever_names_the_distribution_names_one_that_there_is():
    project = tomllib.loads((book.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folders = (book.ROOT / name for name in ("src", "deploy", "examples"))
    files = [*map(book.ROOT.joinpath, book.pages()), *(path for folder in folders for path in folder.rglob("*"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file() and path.suffix != ".pyc")
    named = re.findall(r"\b(?:pip install (?:-\S+ )*['\"]?([a-z][\w-]*)|(\w[\w-]*)\[postgres\])", text)
    assert {one or other for one, other in named} - {"atheris", "flask", "django"} == {project["name"]}
    extras = set(re.findall(rf"{project['name']}\[(\w+)\]", text))
    assert "postgres" in extras
    assert extras <= project["optional-dependencies"].keys()


def test_every_state_has_a_word_for_people():
    assert {state.value for state in State} <= LABELS.keys()


def test_the_words_that_people_see_are_listed():
    assert {row[0].strip("`"): row[1] for row in book.rows(book.part("docs/concepts.md", "labels"))} == LABELS


def test_the_verdicts_of_job_1_are_listed():
    assert book.rows(book.part("docs/concepts.md", "verdicts")) == [list(_cells(row)) for row in TABLE]


def _cells(row: Row) -> Iterator[str]:
    yield " and ".join(map(str, row.fails)) or "nothing"
    yield from (" ".join(map(str, numbers)) for numbers in (row.success, row.error, row.didnt_run))
    yield row.verdict


def test_job_1_of_the_readme_is_the_example():
    (readme,) = (block for block in book.blocks("README.md", "yaml") if block.text.startswith("job: JOB 1"))
    example = (book.ROOT / "examples" / "job1.yaml").read_text(encoding="utf-8")
    assert loads(readme.text) == loads(example)


def test_the_plan_that_is_shown_is_what_its_command_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(book.ROOT)
    monkeypatch.setenv("BATCHQ_HOME", str(tmp_path))
    command, shown = re.findall(r"```\w+\n(.*?)```", book.part("docs/operations.md", "plan"), re.DOTALL)
    printed = CliRunner().invoke(cli, shlex.split(command)[1:]).stdout
    pieces = [piece.strip("\n") for piece in shown.split("…\n")]
    assert all(piece in printed for piece in pieces if piece)


KEYS: dict[str, tuple[type[Spec], set[str]]] = {
    "task keys": (TaskSpec, {"name"}),  # it stands before the task
    "group keys": (GroupSpec, set()),
    "server keys": (ServerSpec, set()),
    "window keys": (WindowSpec, set()),
}


@pytest.mark.parametrize("name", KEYS)
def test_every_key_of_a_job_file_is_told_and_no_other(name: str):
    model, elsewhere = KEYS[name]
    assert told(name) == model.model_fields.keys() - elsewhere


def test_every_key_of_a_job_is_told_and_no_other():
    assert told("job keys") - {"job"} == JobSpec.model_fields.keys() - {"name"}


def told(name: str) -> set[str]:
    """The keys in the first column of a table."""
    cells = [row[0] for row in book.rows(book.part("docs/job-file.md", name))]
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}


def test_every_drill_that_is_named_is_there():
    named = [
        cell
        for row in book.rows(book.text("docs/guarantees.md").partition("## See for yourself")[2])
        for cell in row[:1]
    ]
    modules = re.findall(r"python -m ([\w.]+)", " ".join(named))
    files = re.findall(r"[\w/]+\.py", " ".join(named))
    assert modules
    assert files
    for module in modules:
        path = "tests/" + module.replace(".", "/")
        assert any((book.ROOT / f"{path}{end}").exists() for end in (".py", "/__main__.py")), module
    for file in files:
        assert (book.ROOT / "tests" / file).exists(), file


# --- what there is ------------------------------------------------------------------------------------------


def test_the_readme_is_a_front_door():
    assert len(book.text("README.md").splitlines()) <= 200


def test_every_file_and_test_of_the_recipes_is_there():
    said = re.findall(r"`([\w./]+)`", book.prose("CONTRIBUTING.md"))
    files = {name for name in said if name.endswith((".py", ".md", ".toml"))}
    assert files
    assert {name for name in files if not any((folder / name).exists() for folder in ROOTS)} == set()
    tests = "".join(path.read_text(encoding="utf-8") for path in (book.ROOT / "tests").rglob("test_*.py"))
    assert {name for name in said if name.startswith("test_") and f"def {name}(" not in tests} == set()


@pytest.mark.parametrize("block", book.all_blocks("diff"), ids=str)
def test_an_edit_of_a_recipe_fits_the_file_that_it_names(block: book.Block):
    head, *lines = block.text.splitlines()
    file = (book.ROOT / head.removeprefix("--- ")).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("+") and line[1:] not in file] == []


@pytest.mark.parametrize("page", [*book.pages(), *MANUALS])
def test_every_variable_that_is_named_is_a_setting(page: str):
    named = set(re.findall(r"\bBATCHQ_[A-Z_]*[A-Z]\b", book.text(page)))
    known = {f"BATCHQ_{name.upper()}" for name in Settings.model_fields} | FOR_TESTS | {"BATCHQ_PROJECT", "BATCHQ_USER"}
    assert named <= known


@pytest.mark.parametrize("page", [*book.pages(), *MANUALS])
def test_every_command_that_is_named_is_one(page: str):
    for said in re.findall(r"`(?:celery -A \w+ )?batchq ([^`]+)`", book.prose(page)):
        assert said in SHOWN or not unknown(said), f"batchq {said}"


def unknown(said: str) -> list[str]:
    """What there is not, of the words and options of a command."""
    command, context, wrong = cli, click.Context(cli), []
    words = iter(said.replace("…", "").split())
    for word in words:
        if word == "-A":
            next(words)
        elif word.startswith("-"):
            options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            wrong += (
                [] if word in options | {"-h", *(flag for each in UNFIT.values() for flag in each.flags)} else [word]
            )
        elif isinstance(command, click.Group):
            inner = command.get_command(context, word)
            wrong += [] if inner else [word]
            command = inner or command
    return wrong


@pytest.mark.parametrize("page", [*book.pages(), *MANUALS, "CHANGELOG.md"])
def test_every_link_leads_somewhere(page: str):
    for target in LINK.findall(book.prose(page)):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        path = (book.ROOT / page).parent.joinpath(place).resolve() if place else book.ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings have on GitHub, and those that it sets itself."""
    own = set(re.findall(r'<a id="([\w-]+)"', text))
    headings = re.findall(r"^#+ (.+)$", book.FENCED.sub("", text), re.MULTILINE)
    return own | {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
