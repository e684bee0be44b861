"""Saved runs as a page and a plot, for the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.grid import CANVASES, NAMES, Grid, Saved
from benchmarks.grids import conditions, grids
from benchmarks.lines import widths_svg
from benchmarks.plot import Bar, Panel, step, svg, ticks
from benchmarks.workloads import LAYERS

HEADINGS = {
    "widths": "By the number of threads",
    "compare": "Beside bare Celery and its canvas",
    "canvas": "Layers as Celery's manual writes them",
    "growth": "When there are many",
    "ahead": "Tickets ahead of free threads",
    "idle": "Without work",
    "passed": "A dispatch passes over a full limit",
    "submit": "A large job is submitted",
    "commit": "A commit by itself",
}
PLOTTED: dict[str, Callable[[int], str]] = {  # in words, by the number of tasks
    "wide": lambda tasks: f"wide: {tasks - 1:,} tasks, and one that waits for all",
    "job1": lambda tasks: f"job1: {tasks // 5:,} runs of a job with branches, at once",
    "layers": lambda tasks: f"layers: {LAYERS} × {tasks // LAYERS:,}, each task after all of the layer before",
}
PLOTS = {
    "widths": "![Throughput and hops by the number of threads](widths.svg)",
    "compare": "![Ratios to bare Celery, and the time from a task to the next](report.svg)",
}
OPENING = """# What was measured

Written by `python -m benchmarks report`; what each figure means, and how it is taken, is in [README.md](README.md).
Medians, with the range where there is one. No absolute figure holds on another machine: look at the ratios.
"""


# The comparison by width has a page of its own, as it is repeated more often than all others together.
PAGES = {
    "widths.md": ("widths", "commit"),
    "report.md": ("compare", "canvas", "growth", "ahead", "idle", "passed", "submit"),
}


def write(reports: Sequence[Saved], folder: Path) -> list[Path]:
    """Write the pages and plots of these reports, each if there is something for it; returns what was written."""
    reports = sorted(reports, key=lambda report: report["database"] != "sqlite")
    by_kind = {kind: [report for report in reports if report["kind"] == kind] for kind in HEADINGS}
    written = {}
    for page, kinds in PAGES.items():
        on_it = {kind: by_kind[kind] for kind in kinds if by_kind[kind]}
        if on_it:
            written[page] = _page(on_it)
    if compared := by_kind["compare"]:
        written["report.svg"] = svg(_panels(compared))
    if by_width := by_kind["widths"]:
        written["widths.svg"] = widths_svg(by_width[-1])
    for name, said in written.items():
        (folder / name).write_text(said, encoding="utf-8")
    return [folder / name for name in written]


def _page(by_kind: Mapping[str, Sequence[Saved]]) -> str:
    lines = [OPENING]
    for kind, of_kind in by_kind.items():
        lines += [f"## {HEADINGS[kind]}\n", *([f"{PLOTS[kind]}\n"] if kind in PLOTS else [])]
        for report in of_kind:
            lines += [f"{conditions(report)}.\n", *map(_markdown, grids(report))]
    facts = next(of_kind[0]["machine"] for of_kind in by_kind.values())
    lines.append(f"{facts['system']}, Python {facts['python']}, Celery {facts['celery']}, batchq {facts['batchq']}.\n")
    return "\n".join(lines)


def _markdown(grid: Grid) -> str:
    rule = ["---" if number < grid.names else "---:" for number in range(len(grid.headings))]
    rows = ["| " + " | ".join(row) + " |" for row in (grid.headings, rule, *grid.rows)]
    return "\n".join([f"**{grid.title}**", "", *rows, "", *([f"*{grid.note}*", ""] if grid.note else [])])


# --- the plot -----------------------------------------------------------------------------------------------


def _panels(compared: Sequence[Saved]) -> list[Panel]:
    panels = [_ratios(compared)] if any(set(PLOTTED) & set(report["workloads"]) for report in compared) else []
    return [*panels, _hops(compared)] if any("chain" in report["workloads"] for report in compared) else panels


def _ratios(compared: Sequence[Saved]) -> Panel:
    groups = []
    for name, said in PLOTTED.items():
        there = [report for report in compared if name in report["workloads"]]
        if there:
            groups.append((said(there[0]["workloads"][name]["tasks"]), _ratio_bars(name, there)))
    most = max(bar.high for _, bars in groups for bar in bars)
    note = "Tasks per second, as a multiple of bare Celery; a database and what stands below it took turns in one run"
    return Panel("Throughput, bare Celery = 1", note, groups, ticks(most, 0.25), 2, one=1.0)


def _ratio_bars(name: str, compared: Sequence[Saved]) -> list[Bar]:
    bars = []
    for report in compared:
        sides = report["workloads"][name]["sides"]
        bars.append(_bar(f"batchq on {NAMES[report['database']]}", "batchq", sides["batchq"]["ratio"]))
        if "canvas" in sides:
            bars.append(_bar(CANVASES[name], "canvas", sides["canvas"]["ratio"]))
    return bars


def _bar(name: str, side: str, values: dict[str, Any]) -> Bar:
    return Bar(name, side, values["median"], values["min"], values["max"])


def _hops(compared: Sequence[Saved]) -> Panel:
    there = [report for report in compared if "chain" in report["workloads"]]
    bars = []
    for report in there:
        bars.append(_hop(f"batchq on {NAMES[report['database']]}", "batchq", report))
        if "canvas" in report["workloads"]["chain"]["sides"]:
            bars.append(_hop("Celery's chain", "canvas", report))
        bars.append(_hop("bare Celery, by hand", "bare", report))
    most = max(bar.high for bar in bars)
    tasks = there[0]["workloads"]["chain"]["tasks"]
    note = f"chain, {tasks:,} tasks in a row: milliseconds, median and 95th percentile"
    return Panel(
        "From the end of a task to the start of the next", note, [("", bars)], ticks(most, max(1, step(most))), 1
    )


def _hop(name: str, side: str, report: Saved) -> Bar:
    hop = report["workloads"]["chain"]["sides"][side]["hop_ms"]
    return Bar(name, side, hop["p50"], hop["p50"], hop["p95"])
