"""`batchq group`: the batch groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from batchq.cli.context import batch, database, forward, timezone, users_now
from batchq.cli.output import Part, Table, duration, instant, output_option, present, say, watch_option

PRIORITIES = ("low", "normal", "high", "critical")


@click.group()
def group() -> None:
    """Batch groups: list, set, pause, resume, delete.

    A group exists once a task, a server or a file named it.
    """


@group.command("list")
@output_option
@watch_option
def list_(output: str, watch: bool) -> None:
    """List the groups: how much waits and runs in each, who may take it, and why it waits."""
    from batchq import views

    opened = database()

    def read() -> Sequence[Mapping[str, Any]]:
        with opened.read() as tx:
            return views.groups(tx, timezone=timezone())

    present(read, lambda groups: [groups_table(groups)], output=output, watch=watch)


@group.command("set")
@click.argument("name")
@click.option("--priority", type=click.Choice(PRIORITIES), required=True, help="Goes before groups of a lower one.")
def set_(name: str, priority: str) -> None:
    """Set what is true of a group; its tasks that have not started follow."""
    from batchq import actions

    _done(name, actions.set_group(database(), name, priority=priority))


@group.command()
@click.argument("name")
def pause(name: str) -> None:
    """Let nothing new of a group start; what is executing finishes."""
    from batchq import actions

    _done(name, actions.pause_group(database(), name, ahead=batch().settings.tickets_ahead))


@group.command()
@click.argument("name")
def resume(name: str) -> None:
    """Let a paused group go on."""
    from batchq import actions

    _done(name, actions.resume_group(database(), name, ahead=batch().settings.tickets_ahead))


@group.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a group that no server is bound to and no unfinished task is in."""
    from batchq import actions

    for line in actions.delete_group(database(), name, ahead=batch().settings.tickets_ahead):
        say(line)


def _done(name: str, changed: list[str]) -> None:
    """Print what changed, hand out what that freed, and say how the group stands now."""
    from batchq import views

    for line in changed or [f"Group {name} is so already."]:
        say(line)
    forward()
    with database().read() as tx:
        view = next(one for one in views.groups(tx) if one["group"] == name)
    numbers = ", ".join(f"{view[key]} {key}" for key in ("ready", "queued", "executing"))
    say(f"{name}: {'paused, ' if view['paused'] else ''}{numbers}")


def groups_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Groups for people."""
    now = users_now()
    columns = ("Group", "Priority", "State", "Ready", "Queued", "Executing", "Oldest", "Servers", "Why")
    return Table(columns, [_row(group, now) for group in groups])


def _row(group: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    since = instant(group["oldest_ready_at"])
    return (
        group["group"],
        group["priority"],
        "paused" if group["paused"] else "–",
        *(str(group[number]) for number in ("ready", "queued", "executing")),
        duration((now - since).total_seconds()) if since else "–",
        ", ".join(group["servers"]) or "none",
        group["why"] or "",
    )


def waiting(groups: Sequence[Mapping[str, Any]]) -> Iterator[Part]:
    """What waits, and why, for people."""
    if groups:
        yield ""
        yield groups_table(groups)
