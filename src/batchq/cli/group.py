"""`batchq group`: list, set, pause, resume and delete batch groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

import click

from batchq import actions, views
from batchq.cli.context import batch, database, forward, timezone, users_now
from batchq.cli.fields import Read, parse_units
from batchq.cli.output import Part, Table, duration, instant, output_option, say, watch_option
from batchq.cli.reading import ask, print_list

PER_RUN = Read("number", parse_units)
PRIORITIES = ("low", "normal", "high", "critical")


@click.command("list")
@output_option
@watch_option
def list_(output: str, watch: bool) -> None:
    """List the groups: how much waits and runs in each, who may take it, and why it waits."""
    print_list(lambda tx: views.groups(tx, timezone=timezone()), groups_table, output=output, watch=watch)


@click.command("set")
@click.argument("name")
@click.option("--priority", type=click.Choice(PRIORITIES), help="Goes before groups of a lower one.")
@click.option(
    "--per-run",
    type=PER_RUN,
    metavar="N|none",
    help="The most of its tasks that a run may have at once; none for no limit.",
)
def set_(name: str, priority: str | None, per_run: int | Literal["none"] | None) -> None:
    """Set what is true of a group; its tasks that have not started follow."""
    if priority is None and per_run is None:
        raise click.UsageError("Give --priority, --per-run, or both.")
    ahead = batch().settings.tickets_ahead
    _done(name, actions.set_group(database(), name, priority=priority, per_run=per_run, ahead=ahead))


@click.command()
@click.argument("name")
def pause(name: str) -> None:
    """Let nothing new of a group start; what is executing finishes."""
    _done(name, actions.pause_group(database(), name, ahead=batch().settings.tickets_ahead))


@click.command()
@click.argument("name")
def resume(name: str) -> None:
    """Let a paused group go on."""
    _done(name, actions.resume_group(database(), name, ahead=batch().settings.tickets_ahead))


@click.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a group that no server is bound to and no unfinished task is in."""
    for line in actions.delete_group(database(), name, ahead=batch().settings.tickets_ahead):
        say(line)


def _done(name: str, changed: list[str]) -> None:
    """Print the changes, hand out the tasks they freed, and say how the group stands."""
    for line in changed or [f"Group {name} is so already."]:
        say(line)
    forward()
    view = next(group for group in ask(views.groups) if group["group"] == name)
    numbers = f"{view['ready']} ready, {view['queued']} queued, {view['executing']} executing"
    say(f"{name}: {'paused, ' if view['paused'] else ''}{numbers}")


def groups_table(groups: Sequence[views.GroupView]) -> Table:
    """Groups for people."""
    now = users_now()
    columns = ("Group", "Priority", "Per run", "State", "Ready", "Queued", "Executing", "Oldest", "Servers", "Why")
    return Table(columns, [_row(group, now) for group in groups])


def _row(group: views.GroupView, now: datetime) -> tuple[str, ...]:
    since = instant(group["oldest_ready_at"])
    return (
        group["group"],
        group["priority"],
        "–" if group["per_run"] is None else str(group["per_run"]),
        "paused" if group["paused"] else "–",
        *map(str, (group["ready"], group["queued"], group["executing"])),
        duration((now - since).total_seconds()) if since else "–",
        ", ".join(group["servers"]) or "none",
        group["why"] or "",
    )


def waiting(groups: Sequence[views.GroupView]) -> Iterator[Part]:
    """The groups in which tasks wait, and why, for people."""
    if groups:
        yield ""
        yield groups_table(groups)
