"""Every command and every option says what it is for."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from batchq import __version__
from batchq.cli import cli


def commands(command: click.Command = cli, name: str = "batchq"):
    yield pytest.param(command, id=name)
    if isinstance(command, click.Group):
        for word, inner in command.commands.items():
            yield from commands(inner, f"{name} {word}")


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_has_help_and_every_option_a_help_text(command):
    assert command.help, command.name
    silent = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert not silent


@pytest.mark.parametrize("command", list(commands()))
def test_help_fits_into_80_columns(command):
    page = CliRunner().invoke(command, ["--help"], terminal_width=80).output
    assert page.startswith("Usage:")
    assert max(map(len, page.splitlines())) <= 80


def test_the_version_is_that_of_the_package():
    assert CliRunner().invoke(cli, ["--version"]).output == f"batchq, version {__version__}\n"


def test_importing_the_command_line_imports_nothing_slow():
    program = (
        "import sys, batchq.cli; "
        "print(*[name for name in ('alembic', 'celery', 'pydantic', 'rich', 'sqlalchemy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == ""


def test_an_unknown_command_is_wrong_usage():
    assert CliRunner().invoke(cli, ["serve"]).exit_code == 2
