"""What a benchmark came to, as grids of text: for the terminal, and for the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.by_width import by_width, commits
from benchmarks.canvases import SHAPES
from benchmarks.grid import NAMES, Grid, Saved, spread
from benchmarks.meter import PARTS


def grids(report: Saved, *, ranges: bool = False) -> list[Grid]:
    """The grids of a report; with `ranges` also those of the CPU times."""
    if report["kind"] == "compare":
        return [_speeds(report), _costs(report, ranges)]
    if report["kind"] == "widths":
        return by_width(report)
    if report["kind"] == "commit":
        return [commits({report["database"]: report["commit"]})]
    return [_GRIDS[report["kind"]](report)]


def conditions(report: Saved) -> str:
    """What was measured on, in one line."""
    facts = report["machine"]
    load = f"load {facts['load']:.1f} before and {facts['load_after']:.1f} after"
    return f"{facts['cpus']} CPUs, {load}, fsync {facts['fsync_ms']:.1f} ms"


# --- the comparison -----------------------------------------------------------------------------------------


def _speeds(report: Saved) -> Grid:
    title = f"{NAMES[report['database']]}, {report['threads']} threads, {report['pairs']} turns"
    headings = ("workload", "side", "tasks/s", "to bare", "submit s", "hop p50", "p95 ms", "CPU ms", "MiB", "books ms")
    rows = [(name, side, *_speed(side, summary)) for name, side, summary in _each_side(report)]
    note = (
        "hop: from the end of the last predecessor to the start of the first successor; CPU: per task, of all; "
        "books: how much later the end of the job was stored"
    )
    return Grid(title, headings, rows, note, names=2)


def _each_side(report: Saved) -> Iterator[tuple[str, str, Saved]]:
    for name, figures in report["workloads"].items():
        for number, (side, summary) in enumerate(figures["sides"].items()):
            yield "" if number else f"{name} {figures['tasks']:,}", side, summary


def _speed(side: str, figures: Saved) -> list[str]:
    stored = figures["stored_ms"]
    return [
        spread(figures["tasks_per_second"], 0),
        "1" if side == "bare" else spread(figures["ratio"], 2),
        f"{figures['submit_seconds']:.2f}",
        *_hop(figures),
        f"{figures['cpu_ms_per_task']['median']:.2f}",
        f"{figures['peak_mib']:.0f}",
        f"{stored:.0f}" if stored is not None else "–",
    ]


def _hop(figures: Saved) -> list[str]:
    hop = figures["hop_ms"]
    return [f"{hop['p50']:.1f}", f"{hop['p95']:.1f}"] if hop else ["–", "–"]


def _costs(report: Saved, ranges: bool) -> Grid:
    title = "CPU ms per task, median" + (" (and range)" if ranges else "")
    note = "client: until all is handed over; idle: of a core, what the sides took that waited meanwhile"
    rows = [(name, side, *_cost(summary, ranges)) for name, side, summary in _each_side(report)]
    return Grid(title, ("workload", "side", *PARTS, "all", "to bare", "idle"), rows, note, names=2)


def _cost(figures: Saved, ranges: bool) -> list[str]:
    values = [figures["cpu_ms"].get(part) for part in PARTS] + [figures["cpu_ms_per_task"]]
    cells = [(spread(value, 2) if ranges else f"{value['median']:.2f}") if value else "–" for value in values]
    return [*cells, spread(figures["cpu_ratio"], 2), f"{figures['others_cpu']:.1%}"]


# --- the others ---------------------------------------------------------------------------------------------


def _canvas(report: Saved) -> Grid:
    rows = []
    for shape, figures in report["shapes"].items():
        ends = f"after {figures['seconds']:.1f} s" if figures["ended"] else f"not within {figures['seconds']:.0f} s"
        rows.append((SHAPES[shape], ends, f"{figures['tasks']:,} of 1,000", f"{figures['starts']:,}"))
    return Grid(
        "layers in Celery's canvas, written all at once", ("written as", "ends", "tasks that ran", "starts"), rows
    )


def _growth(report: Saved) -> Grid:
    headings = ("case", "", "CPU ms a task", "ratio", "wall ms a task", "ratio", "server MiB", "coordinator MiB")
    rows: list[Sequence[str]] = []
    for name, case in report["cases"].items():
        grown = f"beside {case['jobs']:,} jobs" if "jobs" in case else f"{case['tasks']:,} tasks"
        few = f"{case['few']:,} tasks"
        said = {"small": few, "large": grown, "after": f"{few} after it"}
        there = [row for row in said if row in case]
        rows += [("" if row != "small" else name, said[row], *_grown(case[row], case["small"])) for row in there]
    note = "submit and storing included; memory at the beginning, at most, at the end"
    return Grid(f"{NAMES[report['database']]}, {report['threads']} threads", headings, rows, note, names=2)


def _grown(figures: Saved, small: Saved) -> list[str]:
    cells = []
    for name in ("cpu_ms_per_task", "wall_ms_per_task"):
        cells += [spread(figures[name], 2), f"{figures[name]['median'] / small[name]['median']:.2f}"]
    for part in ("main", "coordinator"):
        memory = figures["resident_mib"][part]
        cells.append(f"{memory['begin']:.0f}, {memory['most']:.0f}, {memory['end']:.0f}")
    return cells


def _ahead(report: Saved) -> Grid:
    rows = []
    for name, by in report["workloads"].items():
        for number, (tickets, figures) in enumerate(by.items()):
            rows.append(("" if number else name, tickets, spread(figures["tasks_per_second"], 0), *_hop(figures)))
    title = f"{NAMES[report['database']]}, three servers of {report['threads']} threads, {report['turns']} turns"
    return Grid(title, ("workload", "tickets ahead", "tasks/s", "hop p50", "p95 ms"), rows)


def _idle(report: Saved) -> Grid:
    rows = []
    for name, share in report["cores"].items():
        without = report["against"].get(name)
        more = f"{share['median'] - report['cores'][without]['median']:+.2f} to {without}" if without else "–"
        rows.append((name, spread(share, 2), more))
    title = f"{NAMES[report['database']]}, {report['seconds']:g} s without work"
    return Grid(title, ("process", "% of a core", "more"), rows)


def _submit(report: Saved) -> Grid:
    rows = []
    for source, figures in report["sources"].items():
        kinds = ("seconds", "validate_seconds", "store_seconds", "cpu_seconds", "database_cpu_seconds")
        seconds = [spread(figures[kind], 1) if kind in figures else "–" for kind in kinds]
        memory = [f"{figures[name]['median']:.0f}" for name in ("peak_mib", "peak_mib_before")]
        rows.append((source, *seconds, *memory))
    title = f"{NAMES[report['database']]}, {report['tasks']:,} tasks"
    return Grid(title, ("from", "s", "validate s", "store s", "CPU s", "database CPU s", "peak MiB", "before"), rows)


def _passed(report: Saved) -> Grid:
    rows = []
    for fact, said in (("look_ms", "the look, ms"), ("all_ms", "the whole dispatch, ms")):
        without, behind = (spread(report["passed"][name][fact], 2) for name in ("without", "behind"))
        rows.append((said, without, behind, f"{report['passed']['ratio'][fact]:.2f}"))
    title = f"{NAMES[report['database']]}, {report['turns']} turns"
    return Grid(title, ("", "alone", f"behind {report['crowd']:,} of a full limit", "ratio"), rows)


_GRIDS = {
    "ahead": _ahead,
    "canvas": _canvas,
    "growth": _growth,
    "idle": _idle,
    "passed": _passed,
    "submit": _submit,
}
