"""The command line: parse, call, print. A file a noun; whatever is slow to import waits for the command."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from batchq import __version__
from batchq.cli import check, context, db, files, group, job, plan, processes, runs, server, status, task, web, window

server.server.add_command(processes.start)
server.server.add_command(window.window)

COMMANDS: tuple[click.Command, ...] = (
    processes.run,
    processes.dev,
    files.submit,
    files.validate,
    files.apply,
    plan.plan,
    status.status,
    check.check,
    job.job,
    runs.runs,
    task.task,
    group.group,
    server.server,
    processes.coordinator,
    web.web,
    db.db,
)


# Celery registers the command by this name.
@click.group("batchq", cls=context.Commands, context_settings={"help_option_names": ["-h", "--help"]})
@context.app_option
@click.version_option(__version__, prog_name="batchq", help="Print the version.")
def cli() -> None:
    """Batch jobs for Celery: conditions, groups, servers, threads and time windows.

    \b
    Exit codes: 0 done, 1 a negative result, 2 wrong usage or invalid input,
    3 not found, 4 broker or database unreachable, 5 conflict,
    124 waited too long, 130 interrupted.
    """


for command in COMMANDS:
    cli.add_command(command)


def _open_what_is_closed() -> None:
    """Put nothing in the place of a standard stream that is closed: else the next file that is opened would be it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115 (it stays open to the end)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def main() -> None:
    """The program `batchq`."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the command.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        cli(prog_name="batchq")
    except OSError as error:  # of what click itself prints: help, version, errors
        failure = context.Failure(context.of_system(error))
        with suppress(OSError):
            failure.show()
        sys.exit(failure.exit_code)
