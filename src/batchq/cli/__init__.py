"""The command line: parse, call, print. Each noun has its file, imported when one of its commands is called."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

import click

from batchq import __version__, errors
from batchq.cli import program

# The groups, with their help.
GROUPS = {
    "job": """Jobs: list, show, graph, hold, release.

    A job exists once a run of it was submitted, or a file with it applied.
    """,
    "runs": """Runs of jobs: list, show, watch, hold, release, cancel.

    RUN is a run's number, or `last` for the newest one.
    """,
    "task": """Tasks: list, errors, show, log, why, abort.

    RUN is a run's number, or `last` for the newest one; TASK is the task's name.
    """,
    "group": """Batch groups: list, set, pause, resume, delete.

    A group exists once a task, a server or a file named it.
    """,
    "limit": """Named limits: list, set, delete.

    A limit is how many of the tasks that name it run at once, over all jobs, servers and coordinators.
    """,
    "server": "Batch servers: which groups they take, with how many threads, and when.",
    "server groups": """Bindings of a server to groups: add, remove, set.

    A server that is bound to groups takes only these; without any it takes the
    default group and those to which no server is bound.
    """,
    "server window": """Windows of a server: add, list, remove, preview.

    A server with windows has the threads of those that are open, and none outside of them.
    """,
    "audit": "The audit of who changed what: list.",
    "db": "The database: upgrade.",
}
# Every command: its module in this package and its attribute there, and the first sentence of its help.
COMMANDS = {
    "run": ("processes:run", "Run the job in FILE here and now, and show it until it ends."),
    "dev": (
        "processes:dev",
        "Start everything in this folder and stay: broker, database, coordinator, batch servers, Flower.",
    ),
    "submit": ("files:submit", "Start a run of the job in FILE."),
    "validate": ("files:validate", "Check job files; nothing is stored."),
    "apply": ("files:apply", "Make limits, groups, servers and jobs as the files say, and print what that changes."),
    "plan": ("plan:plan", "Simulate the jobs in FILE: what would run when and where."),
    "status": ("status:status", "Show how everything stands: runs, tasks, servers, and what waits for what."),
    "check": ("check:check", "Print every problem of the set-up at once."),
    "job list": ("job:list_", "List the jobs, each with its newest run."),
    "job show": ("job:show", "Show a job: its tasks with their conditions, and its newest runs."),
    "job graph": ("job:graph_", "Draw a job: which task follows which, and on what outcome."),
    "job hold": ("job:hold", "Withhold a job: no run of it starts until it is released, its open runs go on."),
    "job release": ("job:release", "Release a job that is withheld: runs of it start again."),
    "runs list": ("run:list_", "List runs, the newest first."),
    "runs show": ("run:show", "Show a run and its tasks."),
    "runs watch": ("run:watch", "Watch a run until it ends."),
    "runs hold": (
        "run:hold",
        "Hold a run: nothing more of it starts until it is released, tasks that are executing finish.",
    ),
    "runs release": ("run:release", "Release a held run: it goes on, and its tasks are as old as they were."),
    "runs cancel": ("run:cancel", "Cancel a run: nothing more of it starts, tasks that are executing finish."),
    "runs retry": ("rerun:retry", "Run the failed tasks of a run again, and all that follows them."),
    "runs set": ("rerun:set_", "Set what is true of a run; its tasks that have not started follow."),
    "task list": ("task:list_", "List the tasks of a run, or of all runs."),
    "task errors": ("failures:errors", "List what went wrong: failed attempts, counted by error."),
    "task show": ("task:show", "Show a task: where it stands, what it runs, its conditions and attempts."),
    "task log": ("log:log", "Print what an attempt of a task logged."),
    "task why": ("task:why", "Say why a task has not started, or didn't run."),
    "task retry": ("rerun:retry_task", "Run a task again, and all that follows it."),
    "task accept": ("rerun:accept", "Take a task for done that waits or failed; all that follows it runs again."),
    "task abort": ("task:abort", "Stop a task that executes: it is canceled, and not tried again."),
    "group list": (
        "group:list_",
        "List the groups: how much waits and runs in each, who may take it, and why it waits.",
    ),
    "group set": ("group:set_", "Set what is true of a group; its tasks that have not started follow."),
    "group pause": ("group:pause", "Let nothing new of a group start; what is executing finishes."),
    "group resume": ("group:resume", "Let a paused group go on."),
    "group delete": ("group:delete", "Delete a group that no server is bound to and no unfinished task is in."),
    "limit list": (
        "limit:list_",
        "List the limits: their units, how many are in use, what waits for one, and the jobs that name them.",
    ),
    "limit set": (
        "limit:set_",
        "Let so many tasks that name a limit run at once; it is in force within two seconds.",
    ),
    "limit delete": ("limit:delete", "Delete a limit that no open task names."),
    "server list": ("server:list_", "List the servers: state, threads, groups, next change."),
    "server show": ("server:show", "Show a server with its windows and the worker that carries its name."),
    "server set": (
        "server:set_",
        "Set what is true of a server; it is in force within two seconds, without a restart.",
    ),
    "server enable": ("server:enable", "Let a server start tasks."),
    "server disable": ("server:disable", "Let a server start nothing more; what it executes finishes."),
    "server drain": ("server:drain", "Disable a server and wait until nothing runs on it."),
    "server delete": ("server:delete", "Delete a server that is stopped or lost, with its bindings and windows."),
    "server start": ("serve:start", "Be the batch server NAME until told to stop."),
    "server groups add": ("server:add_groups", "Bind a server to these groups too."),
    "server groups remove": ("server:remove_groups", "End the bindings of a server to these groups."),
    "server groups set": ("server:set_groups", "Bind a server to these groups and no others."),
    "server window add": (
        "window:add",
        "Add a window to a server; it is in force within two seconds, without a restart.",
    ),
    "server window list": ("window:list_", "List the windows of a server, numbered from 1."),
    "server window remove": ("window:remove", "Remove a window: by its number, or by its text as `list` prints it."),
    "server window preview": (
        "window:preview",
        "Show when a server has how many threads: a bar for each day, and every period.",
    ),
    "coordinator": ("serve:coordinator", "Be a coordinator until told to stop; as many as you like may run."),
    "web": ("web:web", "Show servers and tasks in Flower, until told to stop."),
    "audit list": ("audit:list_", "List what was changed, the newest first: when, by whom, and why."),
    "db upgrade": ("db:upgrade", "Bring the database's schema up to date; safe to repeat."),
}


# Celery registers the command by this name.
@click.group("batchq", cls=program.Commands, context_settings={"help_option_names": ["-h", "--help"]})
@program.app_option
@click.version_option(__version__, prog_name="batchq", help="Print the version.")
def cli() -> None:
    """Batch jobs for Celery: conditions, groups, servers, threads and time windows.

    \b
    Exit codes: 0 done, 1 a negative result, 2 wrong usage or invalid input,
    3 not found, 4 broker or database unreachable, 5 conflict,
    124 waited too long, 130 interrupted.
    """


cli.fill(GROUPS, COMMANDS)


def _open_what_is_closed() -> None:
    """Open /dev/null for each closed standard stream; else the next file to be opened would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # open takes the lowest free number: this one
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115 (it stays open to the end)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def main() -> None:
    """The program `batchq`."""
    errors.name_actions(program.Commands.words)
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        cli(prog_name="batchq")
    except OSError as error:  # click failed to print its own text: help, version, errors
        failure = program.Failure(program.of_system(error))
        with suppress(OSError):
            failure.show()
        sys.exit(failure.exit_code)
