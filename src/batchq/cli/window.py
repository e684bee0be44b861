"""`batchq server window`: the hours in which a server has threads, and how many."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta

import click

from batchq import actions, views
from batchq.cli import fields
from batchq.cli import override as overriding
from batchq.cli import preview as drawing
from batchq.cli.context import batch, database
from batchq.cli.output import count, output_option, present, say
from batchq.cli.reading import ask
from batchq.cli.server import done, windows_table
from batchq.core.windows import Window, is_zone


@click.command()
@click.argument("name")
@click.argument("text", metavar="[WINDOW]", required=False, type=fields.WINDOW)
@click.option("--start", type=fields.TIME, metavar="TIME", help="HH:MM or HH:MM:SS, inclusive.")
@click.option("--end", type=fields.TIME, metavar="TIME", help="Exclusive; unless after --start, on the next day.")
@click.option("--threads", type=click.IntRange(min=0), metavar="N", help="Tasks at once while it is open.")
@click.option("--tz", type=fields.ZONE, metavar="ZONE", help="IANA name; without it your zone.")
@click.option("--days", type=fields.DAY_LIST, metavar="DAYS", help="The days it starts on: mon,tue or mon-fri.")
@click.option("--date", "only", type=fields.DATE, metavar="DATE", help="YYYY-MM-DD; in place of that day's windows.")
@click.option("--closed", is_flag=True, help="With --date: that day off.")
def add(
    name: str,
    text: Window | None,
    start: time | None,
    end: time | None,
    threads: int | None,
    tz: str | None,
    days: frozenset[int] | None,
    only: date | None,
    closed: bool,
) -> None:
    """Add a window to a server; it is in force within two seconds, without a restart.

    \b
    batchq server window add AOS1 --start 18:00 --end 07:30 --threads 20
    batchq server window add AOS1 "18:00-07:30=20 Europe/Oslo [mon-fri]"
    batchq server window add AOS1 --date 2026-12-24 --closed
    """
    given = {"--start": start, "--end": end, "--threads": threads, "--days": days}
    if text is not None:
        _refuse("WINDOW", {**given, "--tz": tz, "--date": only, "--closed": closed or None})
        added = text
    elif closed or (only is not None and threads == 0 and not (start or end or days)):
        _refuse("--closed", given if closed else {})
        if only is None:
            raise click.UsageError("--closed goes with --date, written as YYYY-MM-DD: that day off.")
        added = Window(time(), time(), 0, tz or fields.users_zone(), None, only)
    else:
        added = _opened(start, end, threads, tz, days, only)
    done(name, actions.add_window(database(), name, added, ahead=batch().settings.tickets_ahead))


def _refuse(instead: str, given: Mapping[str, object]) -> None:
    if named := [option for option, value in given.items() if value is not None]:
        raise click.UsageError(f"{instead} goes without {', '.join(named)}.")


def _opened(
    start: time | None,
    end: time | None,
    threads: int | None,
    tz: str | None,
    days: frozenset[int] | None,
    only: date | None,
) -> Window:
    if start is None or end is None or threads is None:
        values = {"--start": start, "--end": end, "--threads": threads}
        missing = ", ".join(option for option, value in values.items() if value is None)
        raise click.UsageError(
            f"Missing {missing}. Give --start, --end and --threads; a day off is --date with --closed."
        )
    if days is not None and only is not None:
        raise click.UsageError("--date goes without --days: a window has a date or weekdays, not both.")
    return Window(start, end, threads, tz or fields.users_zone(), days, only)


@click.command("list")
@click.argument("name")
@output_option
def list_(name: str, output: str) -> None:
    """List the windows of a server, numbered from 1."""
    view = ask(lambda tx: views.server_view(tx, name))
    present(lambda: view["windows"], lambda windows: [windows_table(windows), *overriding.lines([view])], output=output)


@click.command()
@click.argument("name")
@click.argument("which", metavar="[NUMBER|WINDOW]", required=False)
@click.option("--all", "all_", is_flag=True, help="All of them: the server is then open round the clock.")
def remove(name: str, which: str | None, all_: bool) -> None:
    """Remove a window: by its number, or by its text as `list` prints it."""
    if (which is None) is not all_:
        raise click.UsageError("Give the number or the text of one window, or else --all.")
    ahead = batch().settings.tickets_ahead
    if which is None:
        changed = actions.set_server(database(), name, windows=(), ahead=ahead)
    else:
        changed = actions.remove_window(database(), name, _named(which), ahead=ahead)
    view = done(name, changed)
    if changed and all(one["date"] for one in view["windows"]):
        say(f"{name} has its {count(view['threads_without_windows'], 'thread')} round the clock now.")


def _named(which: str) -> int | str:
    """The number, or the window's text as it is stored."""
    if which.isascii() and which.isdigit():
        return int(which[:9])
    try:
        return str(fields.parse_window(which))
    except ValueError:
        return which.strip()


@click.command()
@click.argument("name")
@click.option("--hours", type=fields.HOURS, default="48", show_default=True, metavar="N", help="How far to look.")
@click.option(
    "--from",
    "begin",
    type=fields.INSTANT,
    metavar="INSTANT",
    help="ISO 8601, in your zone unless it says which; without it this minute.",
)
@output_option
def preview(name: str, hours: timedelta, begin: datetime | None, output: str) -> None:
    """Show when a server has how many threads: a bar for each day, and every period.

    Gaps and changes of the clocks are marked.
    """
    with database().read() as tx:
        first = begin or views.clock(tx).replace(second=0, microsecond=0)
        server = views.server_view(tx, name, first)
        periods = views.periods(tx, name, first, first + hours)
    present(lambda: periods, lambda periods: drawing.drawn(server, periods, _zone_of(server)), output=output)


def _zone_of(server: views.ServerView) -> str:
    """The zone of its windows; the user's if they differ, or if the zone is no longer known."""
    zones = {window["timezone"] for window in server["windows"]}
    return zones.pop() if len(zones) == 1 and all(map(is_zone, zones)) else fields.users_zone()
