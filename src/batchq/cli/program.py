"""The program around the commands: it imports a command when it is called, and turns errors into exit codes."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchq.errors import Action, BatchqError, Broken, PlaceRefuses
from batchq.escape import LINES, printable
from batchq.user import acting

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

APP = "batchq.app"


class Failure(click.ClickException):
    """An error of ours on its way out: one line on stderr, and its own exit code."""

    def __init__(self, error: BatchqError) -> None:
        from batchq.cli.wording import told  # no `--help` needs it

        super().__init__(printable(told(error), LINES))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click declares it on the class


class Deferred(click.Command):
    """A command by its name and short help; `load` imports the rest."""

    def __init__(self, name: str, place: str, short: str) -> None:
        super().__init__(name, help=short)
        self._place = place

    def load(self) -> click.Command:
        """The command itself, from the `module:attribute` in this package."""
        module, _, attribute = self._place.partition(":")
        command: click.Command = getattr(import_module(f"batchq.cli.{module}"), attribute)
        return command


class LazyGroup(click.Group):
    """A group that imports a command only to run it, or to print that command's own help."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now; None if there is none."""
        command = super().get_command(ctx, cmd_name)
        return command.load() if isinstance(command, Deferred) else command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the short helps of the table."""
        click.Group(commands=self.commands).format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so, by the table, and then the group's own options."""
        from click.shell_completion import CompletionItem

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self.commands[name].get_short_help_str()) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def fill(self, groups: Mapping[str, str], commands: Mapping[str, tuple[str, str]]) -> None:
        """Add groups by their help, then commands by place and short help; names are as they are typed."""
        for path, text in groups.items():
            name = path.split()[-1]
            self._owner(path).commands[name] = LazyGroup(name, help=text)
        for path, (place, short) in commands.items():
            name = path.split()[-1]
            self._owner(path).commands[name] = Deferred(name, place, short)

    def _owner(self, path: str) -> click.Group:
        owner: click.Group = self
        for word in path.split()[:-1]:
            inner = owner.commands[word]
            assert isinstance(inner, click.Group)
            owner = inner
        return owner


class Commands(LazyGroup):
    """The group of all commands: turns our errors into one line, and Ctrl-C into exit code 130."""

    @staticmethod
    def words(action: Action, arguments: tuple[str, ...]) -> str:
        """The command that takes the action; Celery's program asks for it too, once it is a server."""
        from batchq.cli.wording import command  # no `--help` needs it

        return command(action, arguments)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The words that are left; refuses those that neither a database nor a terminal can take."""
        for word in args:
            if "\0" in word or (not _is_text(word) and not is_file(word)):
                raise click.UsageError(f"{word[:80]!r} holds what is no character; leave it out.", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was called."""
        try:
            with acting("cli"):
                return super().invoke(ctx)
        except BatchqError as error:
            raise Failure(error) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of a pipe has gone: click ends without a word
                raise
            raise Failure(of_system(error)) from error
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(130)
        except Exception as error:
            if "sqlalchemy" not in type(error).__module__:
                raise
            # At the top of the module it would make every `--help` import SQLAlchemy.
            from batchq.store.failures import of_content, why

            if not of_content(error):
                raise
            raise Failure(Broken(reason=why(error))) from error


def of_system(error: OSError) -> BatchqError:
    """The error for something that the system refused; one that names no file concerns this command's output."""
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EBADF):
        _discard_output()
        return BatchqError(f"What this command prints cannot be written ({error.strerror}). Send it elsewhere.")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return BatchqError(f"This process may open no more files ({error.strerror}). Raise the limit: ulimit -n.")
    if error.filename is None and isinstance(error, FileNotFoundError):
        return PlaceRefuses(path="This folder", reason="it was deleted", advice="Change to a folder that is there.")
    return PlaceRefuses.of(error, "A file", "Let this user use it, or work in another folder.")


def _discard_output() -> None:
    """Send stdout nowhere: the interpreter flushes it once more at its end, and would fail again."""
    with suppress(OSError, AttributeError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def is_file(word: str) -> bool:
    """Whether a file has this name; False for a name that no file can have."""
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


def _is_text(word: str) -> bool:
    """Whether the word is all characters; Python hands over bytes that are no UTF-8 as lone surrogates."""
    return word.isascii() or not any("\ud800" <= character <= "\udfff" for character in word)


def _keep_app(ctx: click.Context, param: click.Parameter, app: str | None) -> None:
    if app is not None:
        if not app.strip():
            raise click.BadParameter(
                "it is empty; name an app as module:attribute, or leave the option out.", ctx, param
            )
        ctx.meta[APP] = app


# The program has it, and so have the commands that people type in a project of their own, where it may come last.
app_option = click.option(
    "-A",
    "--app",
    metavar="MODULE:APP",
    expose_value=False,
    callback=_keep_app,
    help="The Celery app whose jobs these are; without it BATCHQ_APP, else a demo app.",
)
