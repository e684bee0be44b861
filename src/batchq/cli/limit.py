"""`batchq limit`: list, set and delete named limits."""

from __future__ import annotations

from collections.abc import Sequence

import click

from batchq import actions, views
from batchq.cli.context import batch, database, forward, users_now
from batchq.cli.output import Table, duration, instant, output_option, say, watch_option
from batchq.cli.reading import ask, print_list


@click.command("list")
@output_option
@watch_option
def list_(output: str, watch: bool) -> None:
    """List the limits: their units, how many are in use, what waits for one, and the jobs that name them."""
    print_list(views.limits, limits_table, output=output, watch=watch)


@click.command("set")
@click.argument("name")
@click.argument("units", type=int)
def set_(name: str, units: int) -> None:
    """Let so many tasks that name a limit run at once; it is in force within two seconds.

    Makes the limit if there is none. Tasks that run beyond a lowered one go on. With 0 units nothing starts.
    """
    changed = actions.set_limit(database(), name, units, ahead=batch().settings.tickets_ahead)
    for line in changed or [f"Limit {name} is so already."]:
        say(line)
    forward()
    view = next(limit for limit in ask(views.limits) if limit["limit"] == name)
    say(f"{name}: {view['in_use']} of {view['units']} in use, {view['waiting']} waiting")


@click.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a limit that no open task names."""
    for line in actions.delete_limit(database(), name, ahead=batch().settings.tickets_ahead):
        say(line)
    forward()


def limits_table(limits: Sequence[views.LimitView]) -> Table:
    """Limits for people."""
    now = users_now()
    rows = []
    for limit in limits:
        since = instant(limit["oldest_ready_at"])
        oldest = duration((now - since).total_seconds()) if since else "–"
        numbers = (str(limit["units"]), str(limit["in_use"]), str(limit["waiting"]))
        rows.append((limit["limit"], *numbers, oldest, ", ".join(limit["jobs"]) or "–"))
    columns = ("Limit", "Units", "In use", "Waiting", "Oldest", "Jobs")
    return Table(columns, rows, empty="No limits. `batchq limit set NAME N` makes one.")
