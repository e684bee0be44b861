"""`batchq task log`: print what the attempts of a task logged, and wait for those to come."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

import click

from batchq import actions, views
from batchq.cli.context import database, timezone, users_now
from batchq.cli.output import label, lasted, output_option, print_json, say
from batchq.cli.task import sentence
from batchq.core.states import TERMINAL
from batchq.errors import NotFound
from batchq.escape import LINES, printable

POLL_SECONDS = 0.5
# A wait is 4 times as long as the read before it.
POLL_SHARE = 4


@click.command()
@click.argument("run")
@click.argument("task")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="This attempt; without it the last one.")
@click.option("-f", "--follow", "follows", is_flag=True, help="Wait for the logs to come, until the task has ended.")
@output_option
def log(run: str, task: str, attempt: int | None, follows: bool, output: str) -> None:
    """Print what an attempt of a task logged.

    A log is stored when its attempt ends. With -f the command prints the newest log
    and waits for those of the next attempts. With -o json all attempts that ended,
    each with its log.
    """
    opened = database()
    with opened.read() as tx:
        number = actions.find_run(tx, run)

    def read() -> views.TaskView:
        with opened.read() as tx:
            return views.task_view(tx, number, task, timezone=timezone())

    quiet = output == "json"
    if follows:
        view = _follow_calmly(read, attempt, quiet)
    else:
        view = read()
        if not quiet:
            _print_one(view, attempt)
    if quiet:
        print_json([one for one in view["history"] if attempt in (None, one["attempt"])])


def follow(
    read: Callable[[], views.TaskView],
    show: Callable[[views.AttemptView], object],
    *,
    attempt: int | None = None,
    pause: Callable[[float], object] | None = None,
) -> views.TaskView:
    """Show the newest attempt that is stored and each later one, or only `attempt`, until no more can come.

    `read` returns the task as it stands; so does this function, at the end. `pause` is to sleep for some seconds.
    """
    seen: int | None = None
    while True:
        began = time.monotonic()
        view = read()
        wanted = [one for one in view["history"] if attempt in (None, one["attempt"])]
        for one in wanted[-1:] if seen is None else wanted[seen:]:
            show(one)
        seen = len(wanted)
        if view["status"] in TERMINAL or (attempt is not None and wanted):
            return view
        (pause or time.sleep)(max(POLL_SECONDS, POLL_SHARE * (time.monotonic() - began)))


def _follow_calmly(read: Callable[[], views.TaskView], attempt: int | None, quiet: bool) -> views.TaskView:
    """Follow, saying on stderr what is waited for; Ctrl-C names the command that goes on."""
    view = read()
    if view["status"] not in TERMINAL:
        say(f"{view['name']}: {sentence(view)}. A log comes when its attempt ends; Ctrl-C stops waiting.", err=True)
    try:
        view = follow(read, (lambda one: None) if quiet else _print_next, attempt=attempt)
    except KeyboardInterrupt:
        again = f"batchq task log -f {view['run']} {shlex.quote(view['name'])}"
        say(f"{view['name']} goes on. `{again}` waits again.", err=True)
        raise
    if attempt is not None and not any(one["attempt"] == attempt for one in view["history"]):
        raise _no_log(view)
    say(f"{view['name']}: {sentence(view)}.", err=True)
    return view


def _print_one(view: views.TaskView, attempt: int | None) -> None:
    found = [one for one in view["history"] if attempt in (None, one["attempt"])]
    if not found:
        raise _no_log(view)
    _print(found[-1])


def _print_next(one: views.AttemptView) -> None:
    said = f"Attempt {one['attempt']} on {one['server']}: {label(one['status'])} after {lasted(one, users_now())}"
    say(said, err=True)
    _print(one)


def _print(one: views.AttemptView) -> None:
    text = one["log"] or one["error"] or ""
    # A file or a pipe may end at a terminal, which would obey a raw escape; -o json has the text unescaped.
    click.echo(printable(text, LINES), nl=not text.endswith("\n"))


def _no_log(view: views.TaskView) -> NotFound:
    ended = ", ".join(str(one["attempt"]) for one in view["history"]) or "none"
    return NotFound(f"{view['name']} is {label(view['status'])}, with no such log. Attempts that ended: {ended}.")
