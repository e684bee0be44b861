"""Printing: tables and sentences for people, JSON for programs.

The JSON is what `batchq.views` describes. On a terminal tables are drawn by rich, with colour;
elsewhere they are plain aligned text, one line a row, the column of free text last. rich is imported where it
draws: most commands of a script print no table.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from shutil import get_terminal_size
from typing import TYPE_CHECKING, TypedDict, TypeVar
from zoneinfo import ZoneInfo

import click

from batchq import clock
from batchq.core.states import LABELS
from batchq.errors import InvalidInput
from batchq.escape import LINES, printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from batchq.views import AttemptView

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

REDRAW_SECONDS = 1.0
GAP = 3  # between two columns on a terminal
NARROWEST = 12  # of a column that is cut

STYLES = {
    "Executing": "cyan",
    "Canceling": "yellow",
    "Ready": "yellow",
    "Ended": "green",
    "Error": "bold red",
    "Didn't run": "dim",
    "Canceled": "magenta",
    "open": "green",
    "draining": "yellow",
    "closed": "yellow",
    "disabled": "yellow",
    "lost": "bold red",
    "stopped": "dim",
    "paused": "yellow",
    "in force": "green",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for people; a status or a server's state gets its colour. `empty` is said without rows.

    On a terminal `clip` cuts what does not fit, first of the last column; else it goes on in further lines.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    empty: str = ""
    clip: bool = False


Part = str | Table


class Timed(TypedDict):
    """The keys of a view that give a duration."""

    started_at: str | None
    ended_at: str | None


def output_option(command: F) -> F:
    """Add `-o table|json`."""
    choice = click.Choice(["table", "json"])
    option = click.option(
        "-o",
        "--output",
        type=choice,
        default="table",
        show_default=True,
        help="Print a table, or JSON for programs.",
    )
    return option(command)


def watch_option(command: F) -> F:
    """Add `--watch`."""
    return click.option("--watch", is_flag=True, help="Redraw every second until interrupted; needs a terminal.")(
        command
    )


def present(read: Callable[[], T], draw: Callable[[T], Iterable[Part]], *, output: str, watch: bool = False) -> None:
    """Print the view that `read` returns: as JSON, or as `draw` puts it for people, once or every second."""
    if watch and (output == "json" or not sys.stdout.isatty()):
        raise click.UsageError("--watch redraws a table on a terminal; without one, or with -o json, leave it out.")
    if output == "json":
        print_json(read())
    elif watch:
        redraw(lambda: draw(read()), _console())
    elif sys.stdout.isatty():
        _console().print(rendered(draw(read())))
    else:
        for line in plain(draw(read())):
            click.echo(line)


def print_json(view: object) -> None:
    """Print a view as indented JSON."""
    click.echo(printable_json(json.dumps(view, indent=2, ensure_ascii=False)))


def say(text: str, *, err: bool = False) -> None:
    """Print a sentence or several lines; control characters are escaped."""
    click.echo(printable(text, LINES), err=err)


def redraw(draw: Callable[[], Iterable[Part]], console: Console, pause: Callable[[float], None] = time.sleep) -> None:
    """Draw on the console every second, until interrupted."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(rendered(draw()), refresh=True)
            pause(REDRAW_SECONDS)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


# --- the two forms ------------------------------------------------------------------------------------------


def rendered(parts: Iterable[Part]) -> RenderableType:
    """The parts for a terminal."""
    from rich.console import Group
    from rich.text import Text

    return Group(*(_grid(part) if isinstance(part, Table) else Text(printable(part, LINES)) for part in parts))


def _grid(table: Table) -> RenderableType:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    if not table.rows:
        return Text(table.empty, style="dim")
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in table.columns:
        grid.add_column(column, overflow="fold")
    if table.clip:
        for each, width in zip(grid.columns, _fitting(table), strict=True):
            each.no_wrap, each.overflow, each.max_width = True, "ellipsis", width
    for row in table.rows:
        grid.add_row(*(styled(cell) for cell in row))
    return grid


def _fitting(table: Table) -> list[int]:
    """The widths with which a row fits on the terminal: the last column is cut first, then the widest of all."""
    from rich.cells import cell_len

    lines = [table.columns, *table.rows]
    widths = [max(cell_len(printable(line[at])) for line in lines) for at in range(len(table.columns))]
    room = get_terminal_size().columns - GAP * (len(widths) - 1)
    widths[-1] = min(widths[-1], max(room - sum(widths[:-1]), NARROWEST))
    while sum(widths) > room and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def styled(cell: str) -> Text:
    """The cell in the colour of its word, if it has one."""
    from rich.text import Text

    return Text(printable(cell), style=STYLES.get(cell, ""))


def plain(parts: Iterable[Part]) -> Iterable[str]:
    """The parts as lines of plain text."""
    for part in parts:
        if isinstance(part, str):
            yield printable(part, LINES)
        elif part.rows:
            yield from _aligned(part)
        elif part.empty:
            yield part.empty


def _aligned(table: Table) -> Iterable[str]:
    from rich.cells import cell_len

    lines = [tuple(column.upper() for column in table.columns)]
    lines += [tuple(printable(cell) for cell in row) for row in table.rows]
    widths = [max(cell_len(line[number]) for line in lines) for number in range(len(table.columns))]
    for line in lines:
        cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


# --- words --------------------------------------------------------------------------------------------------


def label(status: str | None) -> str:
    """The word that people see for a status; a dash for none."""
    return LABELS[status] if status else "–"


def first_line(text: str | None) -> str:
    """The first line of an error."""
    return text.strip().splitlines()[0] if text and text.strip() else ""


def instant(iso: str | None) -> datetime | None:
    """The instant that a view gives as text."""
    return datetime.fromisoformat(iso) if iso else None


def now_in(timezone: str | None) -> datetime:
    """The present time in the user's zone, an IANA name; without one, in the machine's."""
    now = clock.now()
    from batchq.config import users_zone  # it takes pydantic and SQL along, which no `--help` should wait for

    try:
        return now.astimezone(ZoneInfo(users_zone(timezone)))
    except InvalidInput:  # the machine's zone has no name: only its present offset is known
        return now.astimezone()


def local(iso: str | None, now: datetime) -> str:
    """The instant in the zone of `now`: `12:00:05` on that day, `2026-01-31 12:00` on others, a dash for none."""
    if iso is None:
        return "–"
    there = datetime.fromisoformat(iso).astimezone(now.tzinfo)
    return f"{there:%H:%M:%S}" if there.date() == now.date() else f"{there:%Y-%m-%d %H:%M}"


def count(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`3.2 s`, `2 min 05 s`, `1 h 02 min`, `3 d 04 h`; never negative, though two clocks may disagree."""
    if seconds < 60:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24:02} h"


def lasted(view: Timed, now: datetime) -> str:
    """The duration of a task or run, until now if it has not ended; a dash before its start."""
    started = instant(view["started_at"])
    if started is None:
        return "–"
    return duration(((instant(view["ended_at"]) or now) - started).total_seconds())


def waited(attempt: AttemptView) -> str:
    """The time that an attempt could have started, and had not; a dash where nobody knows it."""
    ready, started = instant(attempt["ready_at"]), instant(attempt["started_at"])
    return "–" if ready is None or started is None else duration((started - ready).total_seconds())


def counted(numbers: Mapping[str, int]) -> str:
    """`5 Ended, 1 Error, 1 Didn't run`, in the order given."""
    together: dict[str, int] = {}
    for status, number in numbers.items():
        together[label(status)] = together.get(label(status), 0) + number
    return ", ".join(f"{number} {word}" for word, number in together.items())
