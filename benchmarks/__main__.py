"""`python -m benchmarks`: batchq beside bare Celery and Celery's own canvas, and what it costs by itself."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks import ahead, commit, growth, idle, passed, report, site, submit, widths
from benchmarks.canvases import try_canvases
from benchmarks.compare import compare, running, usual
from benchmarks.machine import head
from benchmarks.show import show
from benchmarks.workloads import WORKLOADS


class Benchmarks(click.Group):
    """The comparison is what runs when no other benchmark is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["compare", *args]
        return super().parse_args(ctx, args)


NAMED = click.argument("workloads", nargs=-1, type=click.Choice(list(WORKLOADS)), metavar=f"[{'|'.join(WORKLOADS)}]...")
THREADS = click.option("--threads", type=click.IntRange(min=1), default=4, show_default=True, help="Pool size.")
POSTGRES = click.option("--postgres", is_flag=True, help="An embedded PostgreSQL instead of a SQLite file.")
OUTPUT = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)


def timeout(seconds: float) -> Any:
    """The option for the longest that a run may take."""
    return click.option("--timeout", default=seconds, show_default=True, metavar="SECONDS", help="Longest run.")


@click.group(cls=Benchmarks)
def main() -> None:
    """Benchmarks of batchq; without a command, `compare`."""
    # Whoever ends it otherwise than by Ctrl-C leaves no PostgreSQL behind either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Each side has its own, which these would overrule.
    for name in ("DATABASE_URL", "BROKER_URL", "DEPLOYMENT", "HOME"):
        os.environ.pop(f"BATCHQ_{name}", None)


@main.command("compare")
@NAMED
@click.option("--pairs", type=click.IntRange(min=1), default=5, show_default=True, help="Turns that count.")
@click.option(
    "--tasks",
    type=click.IntRange(min=20),
    default=1000,
    show_default=True,
    help="Size of wide and layers; chain is a tenth of it, job1 a twentieth as many runs.",
)
@click.option("--database", metavar="URL", help="An empty database of your own; no side without events.")
@click.option("--canvas/--no-canvas", default=True, help="Whether Celery's own canvas takes part.")
@click.option("--cpu", is_flag=True, help="Show the range of the CPU times too.")
@THREADS
@POSTGRES
@timeout(300.0)
@OUTPUT
def compare_command(
    workloads: tuple[str, ...],
    pairs: int,
    tasks: int,
    database: str | None,
    canvas: bool,
    cpu: bool,
    threads: int,
    postgres: bool,
    timeout: float,
    output: str,
) -> None:
    """Compare batchq with bare Celery and its canvas: same broker, same pool, no-op tasks, in turns."""
    found = head("compare", postgres, threads=threads, pairs=pairs, workloads={})
    with ExitStack() as stack:
        folder = stack.enter_context(site.folder("batchq-bench-"))
        store = site.Store(database) if database else stack.enter_context(site.database(postgres, folder))
        found["database"] = store.kind
        # In one database there is room for one deployment.
        make = usual(store, canvas, quiet=not database)
        with _explained(folder), running(folder, make, threads) as taking_turns:
            for name in workloads or WORKLOADS:
                found["workloads"][name] = compare(name, taking_turns, tasks, pairs, timeout)
    tell(found, output, ranges=cpu)


@main.command("canvas")
@click.option("--seconds", default=60.0, show_default=True, help="How long each may take.")
@THREADS
@OUTPUT
def canvas_command(seconds: float, threads: int, output: str) -> None:
    """See what becomes of `layers` as Celery's manual writes them, which `compare` therefore does otherwise."""
    found = head("canvas", False, threads=threads, seconds=seconds)
    found["shapes"] = try_canvases(threads, seconds)
    tell(found, output)


@main.command("growth")
@click.argument("cases", nargs=-1, type=click.Choice(growth.CASES), metavar=f"[{'|'.join(growth.CASES)}]...")
@click.option(
    "--tasks", type=click.IntRange(min=growth.WIDTH), default=100_000, show_default=True, help="Size of the large job."
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1000, show_default=True, help="Jobs that wait, of 100 tasks."
)
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Small jobs each time.")
@THREADS
@POSTGRES
@timeout(3600.0)
@OUTPUT
def growth_command(
    cases: tuple[str, ...],
    tasks: int,
    jobs: int,
    repeat: int,
    threads: int,
    postgres: bool,
    timeout: float,
    output: str,
) -> None:
    """Compare the cost of a task of a large job, or beside many jobs that wait, with that in a job of 1,000."""
    found = head("growth", postgres, threads=threads, cases={})
    for case in cases or growth.CASES:
        found["cases"][case] = growth.grow(case, tasks, jobs, repeat, threads, postgres, timeout)
    tell(found, output)


@main.command("idle")
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="How long.")
@THREADS
@POSTGRES
@OUTPUT
def idle_command(seconds: float, threads: int, postgres: bool, output: str) -> None:
    """Measure the processes without work, beside the same Celery workers without batchq."""
    found = head("idle", postgres, threads=threads, seconds=seconds)
    found |= {"cores": idle.idle(threads, seconds, postgres), "against": idle.AGAINST}
    tell(found, output)


@main.command("submit")
@click.option("--tasks", type=click.IntRange(min=2), default=100_000, show_default=True, help="Size of the job.")
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="How often from each source.")
@POSTGRES
@OUTPUT
def submit_command(tasks: int, repeat: int, postgres: bool, output: str) -> None:
    """Measure how long it takes to validate and store a large job, from YAML, JSON and Python."""
    found = head("submit", postgres, tasks=tasks, repeat=repeat)
    found["sources"] = submit.submit(tasks, repeat, postgres)
    tell(found, output)


@main.command("widths")
@NAMED
@click.option("--pairs", type=click.IntRange(min=1), default=9, show_default=True, help="Turns that count.")
@click.option("--tasks", type=click.IntRange(min=20), default=1000, show_default=True, help="As for compare.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    multiple=True,
    default=widths.WIDTHS,
    show_default=True,
    help="Pool size; may be given several times.",
)
@click.option("--engine/--no-engine", default=True, help="Whether a commit by itself is measured too.")
@timeout(300.0)
@OUTPUT
def widths_command(
    workloads: tuple[str, ...],
    pairs: int,
    tasks: int,
    threads: tuple[int, ...],
    engine: bool,
    timeout: float,
    output: str,
) -> None:
    """Compare all sides at several pool sizes, on both databases, and hold them against the targets."""
    found = head("widths", False, database="both", pairs=pairs, tasks=tasks)
    with site.folder("batchq-bench-") as folder, _explained(folder):
        found["widths"] = widths.widths(folder, workloads or widths.USUAL, threads, tasks, pairs, timeout)
    found["commit"] = widths.alone() if engine else {}
    found["targets"] = widths.verdicts(found)
    tell(found, output)


@main.command("commit")
@click.option("--servers", type=click.IntRange(min=1), default=500, show_default=True, help="Of four threads each.")
@click.option("--commits", type=click.IntRange(min=1), default=200, show_default=True, help="Of a batch.")
@click.option("--batches", type=click.IntRange(min=1), default=9, show_default=True, help="That count.")
@POSTGRES
@OUTPUT
def commit_command(servers: int, commits: int, batches: int, postgres: bool, output: str) -> None:
    """Measure one commit of a server by itself, without Celery: as the only server, and beside many that work."""
    found = head("commit", postgres)
    found["commit"] = commit.commit(servers, commits, batches, postgres)
    tell(found, output)


@main.command("passed")
@click.option("--crowd", type=click.IntRange(min=1), default=5000, show_default=True, help="Tasks of the full limit.")
@click.option("--turns", type=click.IntRange(min=1), default=300, show_default=True, help="That count.")
@POSTGRES
@OUTPUT
def passed_command(crowd: int, turns: int, postgres: bool, output: str) -> None:
    """Measure a dispatch that passes over tasks whose limit is full, beside one without them."""
    found = head("passed", postgres, crowd=crowd, turns=turns)
    found["passed"] = passed.passed(crowd, turns, postgres)
    tell(found, output)


@main.command("ahead")
@NAMED
@click.option("--turns", type=click.IntRange(min=1), default=5, show_default=True, help="Of new processes.")
@click.option("--tasks", type=click.IntRange(min=20), default=1000, show_default=True, help="As for compare.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of each of three servers.")
@POSTGRES
@timeout(300.0)
@OUTPUT
def ahead_command(
    workloads: tuple[str, ...], turns: int, tasks: int, threads: int, postgres: bool, timeout: float, output: str
) -> None:
    """Compare numbers of tickets ahead of free threads, on three servers that share the work."""
    found = head("ahead", postgres, threads=threads, turns=turns)
    found["workloads"] = ahead.ahead(workloads or ahead.USUAL, tasks, turns, threads, postgres, timeout)
    tell(found, output)


@main.command("report")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--to",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=site.ROOT / "benchmarks",
    show_default=True,
    help="Where report.md and the plots go.",
)
def report_command(files: tuple[Path, ...], folder: Path) -> None:
    """Make a page and plots of runs that were saved with `-o json`."""
    for path in report.write([json.loads(file.read_text()) for file in files], folder):
        click.echo(path)


# --- what all of them say -----------------------------------------------------------------------------------


def tell(found: dict[str, Any], output: str, *, ranges: bool = False) -> None:
    """Print what was found; the load is that of before and after."""
    found["machine"]["load_after"] = os.getloadavg()[0]
    click.echo(json.dumps(found, indent=2)) if output == "json" else show(found, ranges=ranges)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """A run that took too long ends with what the processes said last."""
    try:
        yield
    except TimeoutError as error:
        raise click.ClickException(f"{error}\n{site.ends_of_logs(folder)}") from None


if __name__ == "__main__":
    main()
