"""The plot of the report, as SVG that is readable on light and on dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count, takewhile

WIDTH, LEFT, RIGHT = 760, 190, 70
ROW, GAP, HEAD, FOOT = 22, 16, 46, 40
FONT = 'text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }'
# What each colour is for: on light, on dark.
COLOURS = {
    "text": ("fill", "#1f2328", "#f0f6fc"),
    ".quiet": ("fill", "#59636e", "#9198a1"),
    ".grid": ("stroke", "#d1d9e0", "#3d444d"),
    ".one": ("stroke", "#59636e", "#9198a1"),
    "rect.batchq": ("fill", "#0969da", "#4493f8"),
    "line.batchq": ("stroke", "#0969da", "#4493f8"),
    "rect.canvas": ("fill", "#bc4c00", "#db6d28"),
    "line.canvas": ("stroke", "#bc4c00", "#db6d28"),
    "rect.bare": ("fill", "#59636e", "#9198a1"),
    "line.bare": ("stroke", "#59636e", "#9198a1"),
}


@dataclass(frozen=True)
class Bar:
    """One value with its range, and the side that it belongs to (`bare`, `batchq`, `canvas`)."""

    name: str
    side: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """Groups of bars over one axis; `one` is the value that the others are held against."""

    title: str
    note: str
    groups: Sequence[tuple[str, Sequence[Bar]]]
    ticks: Sequence[float]
    digits: int
    one: float | None = None

    @property
    def height(self) -> int:
        return HEAD + FOOT + sum((ROW if name else 0) + ROW * len(bars) + GAP for name, bars in self.groups)


def svg(panels: Sequence[Panel]) -> str:
    """The panels, one below the other."""
    height = sum(panel.height for panel in panels)
    said = escape("; ".join(panel.title for panel in panels))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{said}">',
        f"<style>{style()}</style>",
    ]
    top = 0
    for panel in panels:
        lines += _drawn(panel, top)
        top += panel.height
    return "\n".join([*lines, "</svg>", ""])


def style(more: Mapping[str, tuple[str, str, str]] | None = None) -> str:
    """The colours, and `more` of them, on light, and where the reader's system is dark, those on dark."""
    colours = {**COLOURS, **(more or {})}
    light = [f"{what} {{ {how}: {colour}; }}" for what, (how, colour, _) in colours.items()]
    dark = [f"{what} {{ {how}: {colour}; }}" for what, (how, _, colour) in colours.items()]
    return "\n".join(["", FONT, *light, "@media (prefers-color-scheme: dark) {", *dark, "}", ""])


def _drawn(panel: Panel, top: int) -> Iterator[str]:
    bottom = top + panel.height - FOOT
    yield text(2, top + 18, panel.title, size=15, bold=True)
    yield text(2, top + 36, panel.note, "quiet")
    for tick in panel.ticks:
        x = _x(panel, tick)
        kind = "one" if tick == panel.one else "grid"
        dashes = ' stroke-dasharray="4 3"' if kind == "one" else ""
        yield f'<line class="{kind}"{dashes} x1="{x:.1f}" x2="{x:.1f}" y1="{top + HEAD}" y2="{bottom}"/>'
        yield text(x, bottom + 16, f"{tick:g}", "quiet", anchor="middle")
    y = top + HEAD
    for name, bars in panel.groups:
        if name:
            y += ROW
            yield text(2, y - 6, name, bold=True)
        for bar in bars:
            y += ROW
            yield from _bar(panel, bar, y - ROW / 2)
        y += GAP


def _bar(panel: Panel, bar: Bar, y: float) -> Iterator[str]:
    low, value, high = (_x(panel, each) for each in (bar.low, bar.value, bar.high))
    box = f'x="{LEFT}" y="{y - 7:.1f}" width="{value - LEFT:.1f}" height="14"'
    yield text(14, y + 4, bar.name)
    yield f'<rect class="{bar.side}" fill-opacity="0.35" {box}/>'
    yield _line(bar.side, value, value, y - 7, y + 7, 3)
    yield _line(bar.side, low, high, y, y, 2)
    yield text(max(high, value) + 8, y + 4, f"{bar.value:.{panel.digits}f}")


def _line(kind: str, x1: float, x2: float, y1: float, y2: float, width: int) -> str:
    ends = f'x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" stroke-width="{width}" {ends}/>'


def _x(panel: Panel, value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(value / panel.ticks[-1], 1.0)


def text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "", size: int = 0, bold: bool = False) -> str:
    """A text at this point, in the colour of its `kind`."""
    given = {
        "class": kind,
        "text-anchor": anchor,
        "style": ";".join([*([f"font-size:{size}px"] if size else []), *(["font-weight:600"] if bold else [])]),
    }
    more = "".join(f' {name}="{value}"' for name, value in given.items() if value)
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def step(most: float) -> float:
    """A round distance between ticks, at most seven of which reach beyond `most`."""
    return next(step for step in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 500, 10_000) if most / step <= 6)


def ticks(most: float, step: float) -> list[float]:
    """The multiples of `step` from nothing to the first that is not below `most`."""
    below = list(takewhile(lambda tick: tick < most, (step * number for number in count())))
    return [*below, step * len(below)]
