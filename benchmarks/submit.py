"""How long it takes until a large job is validated and stored, and how much memory: from files, and from Python."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks import site
from benchmarks.compare import spread
from benchmarks.meter import Meter

SOURCES = ("yaml", "json", "python")


def submit(tasks: int, repeat: int, postgresql: bool) -> dict[str, Any]:
    """Seconds and peak memory by source; each time a new process, on one database that nobody works on."""
    with ExitStack() as stack:
        folder = stack.enter_context(site.folder("batchq-bench-"))
        url, database = stack.enter_context(site.database(postgresql, folder))
        os.environ |= {"BATCHQ_DATABASE_URL": url, "BATCHQ_HOME": str(folder)}
        stack.enter_context(site.broker(folder))
        _write(folder, tasks)
        runs: dict[str, list[dict[str, float]]] = {source: [] for source in SOURCES}
        for _ in range(repeat):
            for source in SOURCES:
                with Meter({"database": database} if database else {}) as meter:
                    figures = _once(source, folder, tasks)
                runs[source].append(
                    figures | {f"{part}_cpu_seconds": spent for part, spent in meter.cpu_seconds.items()}
                )
                click.echo(f"submit from {source}: {figures['seconds']:.1f} s", err=True)
        return {
            source: {name: spread([run[name] for run in those]) for name in those[0]} for source, those in runs.items()
        }


def _write(folder: Path, tasks: int) -> None:
    """The same job as YAML and as JSON: independent tasks, and one that waits for all of them."""
    names = [f"t{n}" for n in range(tasks - 1)]
    lines = "\n".join(f"  {name}: {{run: noop, args: [/dev/null, {name}]}}" for name in names)
    last = f"  last: {{run: noop, args: [/dev/null, last], after: [{', '.join(names)}]}}"
    (folder / "large.yaml").write_text(f"job: large\ntasks:\n{lines}\n{last}\n")
    given = {name: {"run": "noop", "args": ["/dev/null", name]} for name in names}
    document = {
        "job": "large",
        "tasks": {**given, "last": {"run": "noop", "args": ["/dev/null", "last"], "after": names}},
    }
    (folder / "large.json").write_text(json.dumps(document))


def _once(source: str, folder: Path, tasks: int) -> dict[str, float]:
    argv = [sys.executable, "-m", "benchmarks.submit", source, str(folder), str(tasks)]
    ended = subprocess.run(
        argv, stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, "PYTHONPATH": site.path()}
    )
    figures: dict[str, float] = json.loads(ended.stdout)
    return figures


def main(source: str, folder: Path, tasks: int) -> None:
    """Store the job once, in this process, and print what it took; imports and opening the database come before."""
    from batchq import spec
    from batchq.store import schema
    from benchmarks.joined import batch
    from benchmarks.workloads import wide

    schema.upgrade(batch.database)
    batch.check_broker()
    empty = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.monotonic(), time.process_time()
    if source == "python":
        (written,) = wide(tasks - 1, Path("/dev/null")).write()
        job = written.spec()
    else:
        (job,) = spec.load(folder / f"large.{source}", spec.Sizes.of(batch.settings)).jobs.values()
    validated = time.monotonic()
    batch.submit(job)
    ended = time.monotonic()
    figures = {
        "seconds": ended - start,
        "validate_seconds": validated - start,
        "store_seconds": ended - validated,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_mib_before": empty / 1024,
    }
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
