"""`batchq group`: the batch groups."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from batchq import clock
from batchq.cli.context import database, forward
from batchq.cli.output import Part, Table, duration, instant, output_option, present, watch_option

PRIORITIES = ("low", "normal", "high", "critical")


@click.group()
def group() -> None:
    """Batch groups: list, set. A group exists once a task, a server or a file named it."""


@group.command("list")
@output_option
@watch_option
def list_(output: str, watch: bool) -> None:
    """List the groups: how much waits and runs in each, who may take it, and why it waits."""
    from batchq.store import views

    opened = database()

    def read() -> list[dict[str, Any]]:
        with opened.read() as tx:
            return views.groups(tx)

    present(read, lambda groups: [groups_table(groups)], output=output, watch=watch)


@group.command("set")
@click.argument("name")
@click.option("--priority", type=click.Choice(PRIORITIES), required=True, help="Goes before groups of a lower one.")
def set_(name: str, priority: str) -> None:
    """Set what is true of a group; its tasks that have not started follow."""
    from batchq import actions

    for line in actions.set_group(database(), name, priority=priority) or [f"Group {name} is so already."]:
        click.echo(line)
    forward()


def groups_table(groups: list[dict[str, Any]]) -> Table:
    """Groups for people."""
    now = clock.now()
    columns = ("Group", "Priority", "Ready", "Queued", "Executing", "Oldest", "Servers", "Why")
    return Table(columns, [_row(group, now) for group in groups])


def _row(group: dict[str, Any], now: datetime) -> tuple[str, ...]:
    since = instant(group["oldest_ready_at"])
    return (
        group["group"],
        group["priority"],
        *(str(group[number]) for number in ("ready", "queued", "executing")),
        duration((now - since).total_seconds()) if since else "–",
        ", ".join(group["servers"]) or "none",
        group["why"] or "",
    )


def waiting(groups: list[dict[str, Any]]) -> Iterator[Part]:
    """What waits, and why, for people."""
    if groups:
        yield ""
        yield groups_table(groups)
