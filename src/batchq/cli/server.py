"""`batchq server`: the batch servers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from batchq import clock
from batchq.cli.context import batch, database, forward
from batchq.cli.output import Part, Table, local, output_option, present, watch_option
from batchq.core.windows import Window, parse_days, parse_time

WINDOW = re.compile(r"\s*([\d:]+)\s*-\s*([\d:]+)\s*=\s*(-?\d+)\s+([^\s\[\]]+)\s*(?:\[([^\[\]]*)\])?\s*")
WINDOW_FORM = '"18:00-07:30=20 Europe/Oslo" or "18:00-07:30=20 Europe/Oslo [mon,tue]"'


class WindowType(click.ParamType[Window]):
    """`18:00-07:30=20 Europe/Oslo [mon,tue]`: from, to, threads, zone, and the days on which it starts."""

    name = "window"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Window:
        """The window that the text says; a usage error with the allowed form for anything else."""
        if isinstance(value, Window):
            return value
        match = WINDOW.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no window. Write it as {WINDOW_FORM}.", param, ctx)
        start, end, threads, zone, days = match.groups()
        try:
            chosen = parse_days(day.strip() for day in days.split(",")) if days is not None else None
            return Window(parse_time(start), parse_time(end), int(threads), zone, chosen)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


@click.group()
def server() -> None:
    """Batch servers: list, show, set."""


@server.command("list")
@output_option
@watch_option
def list_(output: str, watch: bool) -> None:
    """List the servers: state, threads, groups, next change."""
    from batchq.store import views

    opened = database()

    def read() -> list[dict[str, Any]]:
        with opened.read() as tx:
            return views.servers(tx)

    present(read, lambda servers: [servers_table(servers)], output=output, watch=watch)


@server.command()
@click.argument("name")
@output_option
def show(name: str, output: str) -> None:
    """Show a server with its windows and the worker that carries its name."""
    from batchq import actions
    from batchq.store import views

    def read() -> dict[str, Any]:
        with database().read() as tx:
            actions.find_server(tx, name)
            return next(view for view in views.servers(tx) if view["name"] == name)

    present(read, _drawn, output=output)


@server.command("set")
@click.argument("name")
@click.option("--threads", type=click.IntRange(min=0), metavar="N", help="Tasks at once, where no window says it.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME",
    help="Take this group; all of --group are the new set.",
)
@click.option("--no-groups", is_flag=True, help="Take the default group and whatever nobody is bound to.")
@click.option("--enable/--disable", "enabled", default=None, help="Whether it may start anything.")
@click.option(
    "--window",
    "windows",
    multiple=True,
    type=WindowType(),
    help=f"A window, as {WINDOW_FORM}; all are the new set.",
)
@click.option("--no-windows", is_flag=True, help="Open round the clock.")
def set_(
    name: str,
    threads: int | None,
    groups: tuple[str, ...],
    no_groups: bool,
    enabled: bool | None,
    windows: tuple[Window, ...],
    no_windows: bool,
) -> None:
    """Set what is true of a server; it is in force within two seconds, without a restart."""
    from batchq import actions

    if (groups and no_groups) or (windows and no_windows):
        raise click.UsageError("--no-groups goes without --group, and --no-windows without --window.")
    if threads is None and enabled is None and not (groups or no_groups or windows or no_windows):
        raise click.UsageError("Nothing to set. Give at least one option; --help lists them.")
    changed = actions.set_server(
        database(),
        name,
        threads=threads,
        enabled=enabled,
        groups=groups if groups or no_groups else None,
        windows=windows if windows or no_windows else None,
        ahead=batch().settings.tickets_ahead,
    )
    for line in changed or [f"Server {name} is so already."]:
        click.echo(line)
    forward()


def servers_table(servers: list[dict[str, Any]]) -> Table:
    """Servers for people."""
    now = clock.now()
    rows = [
        (
            server["name"],
            server["state"],
            f"{server['busy']}/{server['threads']}",
            ", ".join(server["groups"]) or "–",
            _change(server, now),
            f"{server['host']}:{server['pid']}" if server["state"] != "stopped" else "–",
        )
        for server in servers
    ]
    columns = ("Server", "State", "Busy", "Groups", "Next change", "Process")
    return Table(columns, rows, empty="No servers. `batchq server start NAME` starts one.")


def _change(server: dict[str, Any], now: datetime) -> str:
    change = server["next_change"]
    return f"{local(change['at'], now)} to {change['threads']}" if change else "–"


def _drawn(view: dict[str, Any]) -> Iterator[Part]:
    now = clock.now()
    yield f"{view['name']}: {view['state']}, {view['busy']} of {view['threads']} threads busy"
    yield f"groups       {', '.join(view['groups']) or 'default, and those to which no server is bound'}"
    yield f"next change  {_change(view, now)} threads" if view["next_change"] else "next change  none"
    if view["state"] != "stopped":
        pool = f", {view['pool_kind'] or 'pool'} of {view['pool']}" if view["pool"] else ""
        yield f"process      {view['host']}:{view['pid']} since {local(view['started_at'], now)}{pool}"
    if view["windows"]:
        yield ""
        yield Table(
            ("From", "To", "Threads", "Zone", "Days"),
            [
                (
                    one["start"],
                    one["end"],
                    str(one["threads"]),
                    one["timezone"],
                    ",".join(one["days"] or ["every day"]),
                )
                for one in view["windows"]
            ],
        )
