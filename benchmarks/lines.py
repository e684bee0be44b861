"""The plot of a run over several widths: lines over the number of threads, readable on light and on dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from benchmarks.grid import Saved
from benchmarks.plot import step, style, text, ticks

COLUMN, ROW, LEFT, RIGHT = 380, 262, 40, 18
HEAD, FOOT, LEGEND = 50, 46, 66
# The colour of a side: on light, on dark.
BY_SIDE = {
    "sqlite": ("#0969da", "#4493f8"),
    "postgresql": ("#8250df", "#ab7df8"),
    "canvas": ("#bc4c00", "#db6d28"),
    "bare": ("#59636e", "#9198a1"),
}
COLOURS = {
    f"{shape}.{side}": (how, *colours)
    for side, colours in BY_SIDE.items()
    for shape, how in (("line", "stroke"), ("circle", "fill"))
}
DASHED = "5 4"
SAID = {
    "sqlite": "batchq on SQLite",
    "postgresql": "batchq on PostgreSQL",
    "canvas": "Celery's canvas",
    "sqlite-quiet": "SQLite, without events",
    "postgresql-quiet": "PostgreSQL, without events",
    "bare": "bare Celery",
}
PANELS = {
    "wide": "wide: independent tasks, and one after all",
    "layers": "layers: each task after a whole layer",
    "job1": "job1: runs of a job with branches",
    "chain": "chain: one task after the other",
}
RATIO, HOP = "tasks per second, bare Celery = 1", "ms from an end to the next start, median"


@dataclass(frozen=True)
class Line:
    """The values of a side, one for each width; None where there is none."""

    side: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """Lines over the widths; `one` is the value that the others are held against."""

    title: str
    note: str
    lines: Sequence[Line]
    one: float | None = None

    @property
    def ticks(self) -> list[float]:
        most = max([self.one or 0.0, *(value for line in self.lines for value in line.values if value is not None)])
        return ticks(most * 1.02, step(most))


def widths_svg(report: Saved) -> str:
    """The charts of the report, two in a row, below one legend for all."""
    widths = list(report["widths"])
    charts = [_chart(report, name) for name in PANELS if name in _workloads(report)]
    drawn = list(dict.fromkeys(line.side for chart in charts for line in chart.lines))
    width, height = 2 * COLUMN, LEGEND + ROW * ((len(charts) + 1) // 2)
    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape("; ".join(chart.title for chart in charts))}">',
        f"<style>{style(COLOURS)}</style>",
        *_legend([side for side in SAID if side in drawn or side == "bare"]),
    ]
    for place, chart in enumerate(charts):
        rows += _drawn(chart, widths, COLUMN * (place % 2), LEGEND + ROW * (place // 2))
    return "\n".join([*rows, "</svg>", ""])


def _workloads(report: Saved) -> list[str]:
    first, *_ = report["widths"].values()
    return list(first["workloads"])


def _chart(report: Saved, name: str) -> Chart:
    found = [width["workloads"][name]["sides"] for width in report["widths"].values()]
    sides = [side for side in SAID if side in found[0]]
    if name == "chain":
        hops = [[sides_of[side]["hop_ms"] for sides_of in found] for side in sides]
        lines = [Line(side, [hop and hop["p50"] for hop in of_side]) for side, of_side in zip(sides, hops, strict=True)]
        return Chart(PANELS[name], HOP, lines)
    ratios = [Line(side, [each[side]["ratio"]["median"] for each in found]) for side in sides if side != "bare"]
    return Chart(PANELS[name], RATIO, ratios, one=1.0)


# --- drawn --------------------------------------------------------------------------------------------------


def _legend(sides: Sequence[str]) -> Iterator[str]:
    """What each line is, in two rows."""
    places = [(12 + 250 * (place % 3), 18 + 24 * (place // 3)) for place in range(len(sides))]
    for side, (x, y) in zip(sides, places, strict=True):
        yield _line(side, x, y - 4, x + 26, y - 4)
        yield text(x + 32, y, SAID[side])


def _line(side: str, x1: float, y1: float, x2: float, y2: float) -> str:
    kind, _, quiet = side.partition("-")
    dashes = f' stroke-dasharray="{DASHED}"' if quiet or kind == "bare" else ""
    return f'<line class="{kind}" stroke-width="2"{dashes} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _drawn(chart: Chart, widths: Sequence[str], left: int, top: int) -> Iterator[str]:
    marks = chart.ticks
    bottom, high = top + ROW - FOOT, ROW - FOOT - HEAD
    inner = COLUMN - LEFT - RIGHT
    places = [left + LEFT + inner * (place + 0.5) / len(widths) for place in range(len(widths))]

    def y_of(value: float) -> float:
        return bottom - high * value / marks[-1]

    yield text(left + 12, top + 16, chart.title, bold=True)
    yield text(left + 12, top + 34, chart.note, "quiet", size=12)
    for mark in marks:
        ends = f'x1="{left + LEFT}" x2="{left + COLUMN - RIGHT}" y1="{y_of(mark):.1f}" y2="{y_of(mark):.1f}"'
        yield f'<line class="grid" {ends}/>'
        yield text(left + LEFT - 6, y_of(mark) + 4, f"{mark:g}", "quiet", anchor="end", size=12)
    if chart.one is not None:
        yield _line("bare", left + LEFT, y_of(chart.one), left + COLUMN - RIGHT, y_of(chart.one))
    for x, said in zip(places, widths, strict=True):
        yield text(x, bottom + 16, said, "quiet", anchor="middle", size=12)
    yield text(left + LEFT + inner / 2, bottom + 32, "threads", "quiet", anchor="middle", size=12)
    for line in chart.lines:
        points = [(x, y_of(value)) for x, value in zip(places, line.values, strict=True) if value is not None]
        for (x1, y1), (x2, y2) in pairwise(points):
            yield _line(line.side, x1, y1, x2, y2)
        for x, y in points:
            yield f'<circle class="{line.side.partition("-")[0]}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
