"""Every command and every option says what it is for."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from batchq import __version__
from batchq.cli import cli
from batchq.cli.context import Commands
from batchq.errors import BatchqError, BrokerUnreachable, Conflict, InvalidInput, NotFound
from support import book


def named(command: click.Command = cli, name: str = ""):
    yield name, command
    if isinstance(command, click.Group):
        for word, inner in command.commands.items():
            yield from named(inner, f"{name} {word}".strip())


def commands():
    return [pytest.param(command, id=f"batchq {name}".strip()) for name, command in named()]


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_and_every_option_a_help_text(command):
    assert command.help, command.name
    silent = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert not silent


@pytest.mark.parametrize("command", commands())
def test_help_fits_into_80_columns(command):
    page = CliRunner().invoke(command, ["--help"], terminal_width=80).output
    assert page.startswith("Usage:")
    assert max(map(len, page.splitlines())) <= 80


def listed() -> set[str]:
    """The commands in the table of docs/cli.md."""
    table = book.rows(book.part("docs/cli.md", "commands"))
    return {name for row in table for name in re.findall(r"`batchq ([^`]+)`", row[0])}


def test_the_documentation_lists_every_command():
    assert listed() == {name for name, command in named() if not isinstance(command, click.Group)}


def test_the_version_is_that_of_the_package():
    assert CliRunner().invoke(cli, ["--version"]).output == f"batchq, version {__version__}\n"


def test_importing_the_command_line_imports_nothing_slow():
    program = (
        "import sys, batchq.cli; "
        "print(*[name for name in ('alembic', 'celery', 'pydantic', 'rich', 'sqlalchemy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == ""


ERRORS = [
    (BatchqError("no"), 1),
    (InvalidInput("no"), 2),
    (NotFound("no"), 3),
    (BrokerUnreachable(url="redis://h", reason="no"), 4),
    (Conflict("no"), 5),
]


@pytest.mark.parametrize(("error", "code"), ERRORS)
def test_an_error_of_ours_is_one_line_on_stderr_and_its_exit_code(error, code):
    result = CliRunner().invoke(raising(error))
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"Error: {error}\n")


def test_an_interrupted_command_is_exit_code_130():
    result = CliRunner().invoke(raising(KeyboardInterrupt()))
    assert (result.exit_code, result.stdout) == (130, "")


def raising(error: BaseException) -> click.Command:
    """The group of our commands around a command that raises."""

    @click.command()
    def act() -> None:
        raise error

    return Commands(name="batchq", invoke_without_command=True, callback=act.callback)


def test_an_unknown_command_is_wrong_usage():
    assert CliRunner().invoke(cli, ["serve"]).exit_code == 2
