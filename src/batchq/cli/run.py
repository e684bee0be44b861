"""`batchq runs`: list, show, watch, hold, release and cancel the runs of jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

import click

from batchq import actions, views
from batchq.cli.bulk import Chosen, carry_out, run_options
from batchq.cli.context import TIMED_OUT, aging, database, timezone, users_now
from batchq.cli.fields import SECONDS
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


@click.command("list")
@click.option("--job", metavar="NAME", help="Only runs of this job.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([state.value for state in RunState]),
    help="Only these.",
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many at most.")
@output_option
@watch_option
def list_(job: str | None, statuses: tuple[str, ...], limit: int, output: str, watch: bool) -> None:
    """List runs, the newest first."""
    if job is not None:
        ask(lambda tx: actions.find_job(tx, job))
    print_list(
        lambda tx: views.runs(tx, job=job, statuses=statuses, limit=limit), runs_table, output=output, watch=watch
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


def runs_table(runs: Sequence[views.RunCounts]) -> Table:
    """Runs for people."""
    now = users_now()
    return Table(
        ("Run", "Job", "Status", "Submitted", "Time", "Tasks"),
        [
            (
                str(run["run"]),
                run["job"],
                label(run["status"]),
                local(run["submitted_at"], now),
                lasted(run, now),
                counted(run["tasks"]),
            )
            for run in runs
        ],
        empty="No runs. `batchq submit FILE` starts one.",
    )


def _drawn(view: views.RunView) -> Iterator[Part]:
    now = users_now()
    submitted = local(view["submitted_at"], now)
    name = f"{view['job']} run {view['run']}"
    named = {"run by": view["run_by"], "company": view["company"]}
    whose = ", ".join(f"{said} {name}" for said, name in named.items() if name is not None)
    yield f"{name}: {label(view['status'])}, submitted {submitted}, {lasted(view, now)}{whose and f'; {whose}'}"
    yield tasks_table(view["tasks"], now)
