"""The grids of a run over several widths, the targets first, and of a commit by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.grid import CANVASES, NAMES, Grid, Saved, spread
from benchmarks.meter import PARTS
from benchmarks.targets import TARGETS, Verdict, commits_judged, judged

SIDES = {
    "bare": "bare Celery",
    "sqlite": "batchq on SQLite",
    "sqlite-quiet": "the same without events",
    "postgresql": "batchq on PostgreSQL",
    "postgresql-quiet": "the same without events",
}


def by_width(report: Saved) -> list[Grid]:
    """All grids of the run."""
    found = [_targets(report), *([commits(report["commit"])] if report["commit"] else []), _ratios(report)]
    return [*found, _hops(report), _cpu(report), _parts(report)]


# --- the targets --------------------------------------------------------------------------------------------


def _targets(report: Saved) -> Grid:
    verdicts = judged(report)
    cells = {(each.said, each.database, each.threads): _cell(each) for each in verdicts}
    rows = []
    for target in TARGETS:
        row = [cells.get((target.said, target.database, int(threads)), "–") for threads in report["widths"]]
        sign = "≤" if target.at_most else "≥"
        bounds = ", ".join(f"{bound:g}" for bound in dict.fromkeys(target.bounds.values()))
        rows.append((target.said, NAMES[target.database], f"{sign} {bounds}", *row))
    met = sum(each.met for each in verdicts)
    note = (
        "three targets: at 1 thread, at 2, and at 4 and more; two: at 1 thread, and at 2 and more; one: at all. "
        f"{met} of {len(verdicts)} targets are met, those of a commit included"
    )
    headings = ("figure", "database", "target", *_threads(report))
    return Grid("Targets, and what was measured (medians)", headings, rows, note, names=3)


def _cell(verdict: Verdict) -> str:
    return f"{verdict.measured['median']:.2f} {'met' if verdict.met else 'missed'}"


def commits(commit: Saved) -> Grid:
    """A commit with one report, by itself, held against its targets."""
    rows = [
        (each.said, NAMES[each.database], f"≤ {each.target:g}", spread(dict(each.measured), 2), _met(each))
        for each in commits_judged(commit)
    ]
    servers, threads = (max(each[fact] for each in commit.values()) for fact in ("servers", "threads"))
    note = f"batches, median and range; many: {servers:,} servers with {threads:,} threads, all of which execute tasks"
    title = "One commit with one report, which starts one task, without Celery"
    return Grid(title, ("figure", "database", "target", "measured", ""), rows, note, names=2)


def _met(verdict: Verdict) -> str:
    return "met" if verdict.met else "missed"


# --- by width -----------------------------------------------------------------------------------------------


def _threads(report: Saved) -> list[str]:
    return [f"{threads} thread{'s' if threads != '1' else ''}" for threads in report["widths"]]


def _ratios(report: Saved) -> Grid:
    rows = []
    for workload, side, said in _each_side(report):
        if side == "bare":
            rows.append((workload, f"{said}, tasks/s", *_row(report, workload, side, "tasks_per_second", 0)))
        else:
            rows.append((workload, said, *_row(report, workload, side, "ratio", 2)))
    title = f"Tasks per second, as a multiple of bare Celery of the same width; {report['pairs']} turns"
    return Grid(title, ("workload", "side", *_threads(report)), _once(rows), names=2)


def _hops(report: Saved) -> Grid:
    rows: list[Sequence[str]] = []
    for workload, side, said in _each_side(report):
        if workload == "chain":
            cells = [_hop(found["workloads"]["chain"]["sides"][side]) for found in report["widths"].values()]
            rows.append((f"{said}, by hand" if side == "bare" else said, *cells))
    note = "p50 and 95th percentile of all turns; in brackets the p50 as a multiple of Celery's chain, within a turn"
    return Grid("Chain: ms from the end of a task to the start of the next", ("side", *_threads(report)), rows, note)


def _hop(summary: Saved) -> str:
    hop, ratio = summary["hop_ms"], summary["hop_ratio"]
    more = f" (× {ratio['median']:.2f})" if ratio else ""
    return f"{hop['p50']:.1f}, {hop['p95']:.1f}{more}" if hop else "–"


def _cpu(report: Saved) -> Grid:
    rows = []
    for workload, side, said in _each_side(report):
        figure, digits = ("cpu_ms_per_task", 2) if side == "bare" else ("cpu_ratio", 2)
        said = f"{said}, ms a task" if side == "bare" else said
        rows.append((workload, said, *_row(report, workload, side, figure, digits)))
    title = "CPU of a task, of all processes, as a multiple of bare Celery"
    return Grid(title, ("workload", "side", *_threads(report)), _once(rows), names=2)


def _parts(report: Saved) -> Grid:
    """Where the CPU time goes at the largest width."""
    threads, found = max(report["widths"].items(), key=lambda each: int(each[0]))
    rows = []
    for workload, side, said in _each_side(report):
        cpu = found["workloads"][workload]["sides"][side]["cpu_ms"]
        rows.append((workload, said, *(f"{cpu[part]['median']:.2f}" if part in cpu else "–" for part in PARTS)))
    return Grid(f"CPU ms of a task by process, {threads} threads", ("workload", "side", *PARTS), _once(rows), names=2)


def _each_side(report: Saved) -> Iterator[tuple[str, str, str]]:
    """Each workload's sides, with what they are called."""
    first, *_ = report["widths"].values()
    for workload, figures in first["workloads"].items():
        sides = sorted(figures["sides"], key=[*SIDES, "canvas"].index)
        yield from ((workload, side, SIDES.get(side, CANVASES[workload])) for side in sides)


def _row(report: Saved, workload: str, side: str, figure: str, digits: int) -> list[str]:
    summaries = [found["workloads"][workload]["sides"][side] for found in report["widths"].values()]
    return [spread(summary[figure], digits) for summary in summaries]


def _once(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The same rows; what stands above is not said again."""
    before = ["", *(row[0] for row in rows)]
    return [("" if row[0] == above else row[0], *row[1:]) for above, row in zip(before, rows, strict=False)]
