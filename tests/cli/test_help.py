"""Every command and every option says what it is for."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

import batchq.cli
from batchq import __version__
from batchq.cli import COMMANDS, GROUPS, cli
from batchq.cli.program import Commands
from batchq.errors import BatchqError, BrokerUnreachable, Conflict, InvalidInput, NotFound
from support import book


def named(command: click.Command = cli, name: str = ""):
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            yield from named(command.get_command(context, word), f"{name} {word}".strip())


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


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_tells_of_a_command_what_the_command_tells_of_itself(name):
    command = dict(named())[name]
    assert (name.split()[-1], COMMANDS[name][1]) == (command.name, command.get_short_help_str(500))


def test_the_table_has_every_command_that_there_is():
    modules = [import_module(module.name) for module in pkgutil.iter_modules(batchq.cli.__path__, "batchq.cli.")]
    defined = {id(it) for module in modules for it in vars(module).values() if isinstance(it, click.Command)}
    reached = dict(named())
    assert {id(reached[name]) for name in COMMANDS} == defined - {id(cli)}
    assert reached.keys() == {"", *GROUPS, *COMMANDS}


@pytest.mark.parametrize("name", ["", *GROUPS])
def test_the_help_of_a_group_imports_none_of_its_commands(name):
    page, loaded = printed([*name.split(), "--help"])
    assert page.startswith(f"Usage: batchq {name}".rstrip())
    assert loaded == {"batchq.cli", "batchq.cli.program"}


def test_the_shell_completes_commands_without_importing_them():
    page, loaded = completed("batchq server w")
    assert page == "plain,window\n"
    assert loaded == {"batchq.cli", "batchq.cli.program"}


def test_the_shell_completes_the_options_of_a_command():
    page, _ = completed("batchq runs list --j")
    assert page == "plain,--job\n"


def completed(line: str) -> tuple[str, set[str]]:
    """What the shell offers for the last word, and the modules of the command line that are imported for it."""
    env = {"_BATCHQ_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    return printed([], env)


def printed(words: list[str], env: dict[str, str] | None = None) -> tuple[str, set[str]]:
    """What a process of its own prints, and the modules of the command line that it has then imported."""
    program = (
        "import atexit, sys, batchq.cli\n"
        "names = lambda: {name for name in sys.modules if name.startswith('batchq.cli')}\n"
        "atexit.register(lambda: print(*names(), file=sys.stderr))\n"
        "batchq.cli.main()"
    )
    argv = [sys.executable, "-c", program, *words]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **(env or {})})
    return done.stdout, set(done.stderr.split())


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


@pytest.mark.parametrize("command", [["run"], ["job", "list"], ["server", "start"], ["web"], ["plan"]], ids=" ".join)
def test_the_help_of_a_command_waits_for_no_library_of_its_work(command: list[str]):
    heavy = "{'sqlalchemy', 'sqlmodel', 'pydantic', 'celery', 'flower', 'alembic'} & set(sys.modules)"
    code = (
        f"import sys; from batchq.cli import cli; cli({[*command, '--help']!r}, standalone_mode=False); print({heavy})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "set()"
