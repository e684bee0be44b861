"""`batchq runs`: list, show, watch, hold, release and cancel the runs of jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Unpack

import click

from batchq import actions, views
from batchq.cli.bulk import Chosen, carry_out, run_options
from batchq.cli.context import TIMED_OUT, aging, database, timezone, users_now
from batchq.cli.fields import SECONDS, SINCE, TIMES
from batchq.cli.live import Until, follow
from batchq.cli.output import (
    Part,
    Table,
    counted,
    label,
    lasted,
    local,
    output_option,
    print_json,
    say,
    watch_option,
)
from batchq.cli.reading import ask, print_list, print_view
from batchq.cli.task import tasks_table
from batchq.core.states import RUN_ENDED, RunState

NO_RUNS = "No runs. `batchq submit FILE` starts one."
NO_RUN_FITS = "No runs fit. `batchq runs list` without filters shows the newest."


@click.command("list")
@click.option("--job", metavar="NAME", help="Only runs of this job.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([state.value for state in RunState]),
    help="Only these.",
)
@click.option("--since", type=SINCE, metavar="TIME", help=f"Leave out what ended before {TIMES}.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many at most.")
@output_option
@watch_option
def list_(
    job: str | None, statuses: tuple[str, ...], since: datetime | None, limit: int, output: str, watch: bool
) -> None:
    """List runs, the newest first."""
    if job is not None:
        ask(lambda tx: actions.find_job(tx, job))
    empty = NO_RUN_FITS if job or statuses or since else NO_RUNS
    print_list(
        lambda tx: views.runs(tx, job=job, statuses=statuses, since=since, limit=limit),
        lambda runs: runs_table(runs, empty),
        output=output,
        watch=watch,
    )


@click.command()
@click.argument("run")
@output_option
@watch_option
def show(run: str, output: str, watch: bool) -> None:
    """Show a run and its tasks."""
    number = ask(lambda tx: actions.find_run(tx, run))
    print_view(
        lambda tx: views.run_view(tx, number, timezone=timezone(), aging=aging()), _drawn, output=output, watch=watch
    )


@click.command()
@click.argument("run")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Stop watching after so long.")
@output_option
def watch(run: str, timeout: float | None, output: str) -> None:
    """Watch a run until it ends.

    Exits with 0 if it ends in success, with 1 if not, with 124 if that took longer than --timeout.
    """
    wait_for(ask(lambda tx: actions.find_run(tx, run)), timeout, output)


@click.command()
@run_options
def hold(**chosen: Unpack[Chosen]) -> None:
    """Hold a run: nothing more of it starts until it is released, tasks that are executing finish.

    Instead of RUN, options choose all runs that are to be held.
    """
    carry_out("hold", **chosen)


@click.command()
@run_options
def release(**chosen: Unpack[Chosen]) -> None:
    """Release a held run: it goes on, and its tasks are as old as they were.

    Instead of RUN, options choose all runs that are to be released.
    """
    carry_out("release", **chosen)


@click.command()
@run_options
def cancel(**chosen: Unpack[Chosen]) -> None:
    """Cancel a run: nothing more of it starts, tasks that are executing finish.

    Instead of RUN, options choose all runs that are to be canceled.
    """
    carry_out("cancel", **chosen)


def wait_for(run: int, timeout: float | None, output: str) -> None:
    """Show the run until it ends; then exit with 1 unless in success, with 124 if it took too long."""
    from rich.console import Console

    # With -o json the lines go to stderr: stdout must hold the last view and nothing else.
    console = Console(stderr=output == "json", highlight=False)
    try:
        view = follow(database(), run, console=console, until=Until(timeout), timezone=timezone())
    except KeyboardInterrupt:
        say(f"Run {run} goes on. `batchq runs watch {run}` watches it again.", err=True)
        raise
    if output == "json":
        print_json(view)
    if view["status"] not in RUN_ENDED:
        raise click.exceptions.Exit(TIMED_OUT)
    if view["status"] != RunState.SUCCESS:
        raise click.exceptions.Exit(1)


def runs_table(runs: Sequence[views.RunCounts], empty: str = NO_RUNS, now: datetime | None = None) -> Table:
    """Runs for people; there are notes only if a run needs one."""
    now = now or users_now()
    columns: tuple[str, ...] = ("Run", "Job", "Status", "Submitted", "Time", "Tasks", "Note")
    rows: list[tuple[str, ...]] = [
        (
            str(run["run"]),
            run["job"],
            standing(run),
            local(run["submitted_at"], now),
            lasted(run, now),
            counted(run["tasks"]),
            "; ".join(filter(None, (_held(run, now), _whose(run)))),
        )
        for run in runs
    ]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table(columns, rows, empty=empty, clip=True)


def _held(run: views.RunLine, now: datetime) -> str:
    """Name the holder of a run, the time and the reason; empty if nobody holds it."""
    if not run["held"]:
        return ""
    why = f": {run['held_why']!r}" if run["held_why"] else ""
    return f"held by {run['held_by'] or 'somebody'}, {local(run['held_at'], now)}{why}"


def _whose(run: views.RunLine) -> str:
    """Name the user and the company of a run; empty without them."""
    named = {"run by": run["run_by"], "company": run["company"]}
    return ", ".join(f"{said} {name}" for said, name in named.items() if name is not None)


def standing(run: views.RunLine) -> str:
    """How a run stands, in one or a few words."""
    return label(run["status"]) + (", being retried" if run["retrying"] else "")


def _drawn(view: views.RunView) -> Iterator[Part]:
    now = users_now()
    submitted = local(view["submitted_at"], now)
    name = f"{view['job']} run {view['run']}"
    whose = _whose(view)
    yield f"{name}: {standing(view)}, submitted {submitted}, {lasted(view, now)}{whose and f'; {whose}'}"
    if view["held"]:
        yield _held(view, now)
    yield tasks_table(view["tasks"], now)
