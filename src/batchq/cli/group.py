"""`batchq group`: list, set, pause, resume and delete batch groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import click

from batchq import actions, views
from batchq.cli.context import batch, database, forward, timezone, users_now
from batchq.cli.output import Part, Table, duration, instant, output_option, say, watch_option
from batchq.cli.reading import ask, print_list

PRIORITIES = ("low", "normal", "high", "critical")


@click.command("list")
@output_option
@watch_option
def list_(output: str, watch: bool) -> None:
    """List the groups: how much waits and runs in each, who may take it, and why it waits."""
    print_list(lambda tx: views.groups(tx, timezone=timezone()), groups_table, output=output, watch=watch)


@click.command("set")
@click.argument("name")
@click.option("--priority", type=click.Choice(PRIORITIES), required=True, help="Goes before groups of a lower one.")
def set_(name: str, priority: str) -> None:
    """Set what is true of a group; its tasks that have not started follow."""
    _done(name, actions.set_group(database(), name, priority=priority))


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
    columns = ("Group", "Priority", "State", "Ready", "Queued", "Executing", "Oldest", "Servers", "Why")
    return Table(columns, [_row(group, now) for group in groups])


def _row(group: views.GroupView, now: datetime) -> tuple[str, ...]:
    since = instant(group["oldest_ready_at"])
    return (
        group["group"],
        group["priority"],
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
