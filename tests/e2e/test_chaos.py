"""Everything at once: for 40 s a fault a second, by lot, while jobs are submitted; then all must come to its right end.

`CHAOS_SEED` and `CHAOS_SECONDS` in the environment choose another lot and a longer time.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchq import Job
from e2e.jobs import mixed
from e2e.judge import judge
from e2e.site import RUN_ENDED, Site

SEED = int(os.environ.get("CHAOS_SEED", "20"))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "40"))
FAULT_EVERY = 1.0
STOPPED_SECONDS = 0.5
REST_SECONDS = 60.0
THREADS = {"AOS1": 2, "AOS2": 2, "AOS3": 2}
COORDINATOR = "coordinator"
TASKS = 30
MOST_OPEN = 3


@dataclass
class Chaos:
    """Faults by lot on a site, one at a time, each written down."""

    site: Site
    rng: random.Random
    done: list[str] = field(default_factory=list)

    def strike(self) -> None:
        """Do the next fault."""
        act: Callable[[], str] = self.rng.choice(
            [self.kill_child, self.kill_server, self.kill_coordinator, self.flush, self.stop]
        )
        self.done.append(f"{time.monotonic():.3f} {act.__name__} {act()}")

    def kill_child(self) -> str:
        """One that runs a task: a pool that loses a child while it starts is no pool for Celery, and it ends."""
        lot = self.rng.random()
        children = {child.pid for name in THREADS for child in self.site.children(name)}
        running = [entry for entry in self.site.ledger() if entry.end is None and entry.pid in children]
        if not running:
            return "nobody"
        entry = running[int(lot * len(running))]
        os.kill(entry.pid, signal.SIGKILL)
        return f"{entry.server}: {entry.pid}"

    def kill_server(self) -> str:
        name = self.rng.choice(list(THREADS))
        self.site.kill(name)
        self.site.start_server(name, wait=False)
        return name

    def kill_coordinator(self) -> str:
        self.site.kill(COORDINATOR)
        self.site.start_coordinator()
        return ""

    def flush(self) -> str:
        self.site.broker("FLUSHALL")
        return ""

    def stop(self) -> str:
        name = self.rng.choice([*THREADS, COORDINATOR])
        self.site.tell(name, signal.SIGSTOP)
        wait(self.site, STOPPED_SECONDS)
        self.site.tell(name, signal.SIGCONT)
        return name


def wait(site: Site, seconds: float) -> None:
    """Let time pass."""
    over = time.monotonic() + seconds
    site.wait_for("time to pass", lambda: time.monotonic() >= over)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_after_faults_of_every_kind_every_run_ends_and_the_ledger_is_clean(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    jobs: dict[int, Job] = {}
    with Site(tmp_path) as site:
        site.start_broker()
        site.start_coordinator()
        site.start_servers(list(THREADS), threads=2)
        chaos = Chaos(site, random.Random(rng.random()))
        until = time.monotonic() + SECONDS
        try:
            while time.monotonic() < until:
                struck = time.monotonic()
                if sum(site.run(run)["status"] not in RUN_ENDED for run in jobs) < MOST_OPEN:
                    job = mixed(f"CHAOS {len(jobs)}", TASKS, rng)
                    jobs[site.submit(job)] = job
                chaos.strike()
                wait(site, max(0.0, struck + FAULT_EVERY - time.monotonic()))
            over = time.monotonic() + REST_SECONDS
            for run in jobs:
                site.wait_end(run, max(0.0, over - time.monotonic()))
        finally:
            kinds = Counter(line.split()[1] for line in chaos.done)
            print(f"CHAOS_SEED={SEED}: {len(jobs)} runs, {dict(kinds)}", *chaos.done, sep="\n")
        judge(site, jobs, THREADS)
