"""A report on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.grid import Grid, Saved
from benchmarks.grids import conditions, grids

WIDTH = 120
WIDTH_OF_RANGES = 170


def show(report: Saved, *, ranges: bool = False) -> None:
    """Print the report's tables."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_RANGES if ranges or report["kind"] == "widths" else WIDTH
    for grid in grids(report, ranges=ranges):
        console.print(_table(grid))
    console.print(conditions(report), highlight=False)


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title, caption=grid.note or None)
    for number, heading in enumerate(grid.headings):
        is_name = number < grid.names
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=True)
    for number, row in enumerate(grid.rows):
        following = grid.rows[number + 1 : number + 2]
        table.add_row(*row, end_section=grid.names > 1 and bool(following) and bool(following[0][0]))
    return table
