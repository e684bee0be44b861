"""`batchq runs retry`, `runs set`, `task retry` and `task accept`: run again what failed, or take it for done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import click

from batchq.cli.bulk import Chosen, change_options, print_result, run_options, take
from batchq.cli.context import database, forward
from batchq.cli.group import PRIORITIES
from batchq.cli.output import say

LOST = click.option(
    "--lost",
    is_flag=True,
    help="Also tasks that were lost, timed out or aborted: they may have done their work.",
)


@click.command()
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="This task, not the failed ones; may be repeated.")
@click.option("--all", "all_tasks", is_flag=True, help="All tasks, not the failed ones.")
@LOST
@run_options
def retry(tasks: Sequence[str], all_tasks: bool, lost: bool, **chosen: Unpack[Chosen]) -> None:
    """Run the failed tasks of a run again, and all that follows them.

    Instead of RUN, options choose all runs that are to be retried, by default of those that ended in error.
    """
    from batchq.actions.rerun import retrying

    if tasks and all_tasks:
        raise click.UsageError("Say --task or --all, not both.")
    if chosen["run"] is None and (tasks or all_tasks):
        raise click.UsageError("--task and --all are for one RUN.")
    take(retrying(tasks, all_tasks=all_tasks, lost=lost), **chosen)


@click.command("retry")
@click.argument("run")
@click.argument("task")
@LOST
@change_options
def retry_task(run: str, task: str, lost: bool, reason: str | None, dry_run: bool, yes: bool, output: str) -> None:
    """Run a task again, and all that follows it."""
    from batchq import actions

    result = actions.retry_task(database(), run, task, lost=lost, reason=reason, dry_run=dry_run)
    print_result(result, dry_run=dry_run, output=output)


@click.command()
@click.argument("run")
@click.argument("task")
@LOST
@change_options
def accept(run: str, task: str, lost: bool, reason: str | None, dry_run: bool, yes: bool, output: str) -> None:
    """Take a task for done that waits or failed; all that follows it runs again.

    The run shows who did so, and the reason, which has to be given.
    """
    from batchq import actions

    if not reason:
        raise click.UsageError("Say why by --reason: the run shows it.")
    result = actions.accept_task(database(), run, task, reason=reason, lost=lost, dry_run=dry_run)
    print_result(result, dry_run=dry_run, output=output)


@click.command("set")
@click.argument("run")
@click.option("--priority", type=click.Choice(PRIORITIES), required=True, help="Of its tasks that have not started.")
@click.option("--reason", metavar="TEXT", help="Why; the audit keeps it.")
@click.option("--dry-run", is_flag=True, help="Only say what would happen.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def set_(run: str, priority: str, reason: str | None, dry_run: bool, yes: bool) -> None:
    """Set what is true of a run; its tasks that have not started follow."""
    from batchq import actions

    changes = actions.set_run_priority(database(), run, priority, reason=reason, dry_run=dry_run)
    if not dry_run:
        forward()
    for change in changes:
        say(f"{change}{' (not done: --dry-run)' if dry_run else ''}")
