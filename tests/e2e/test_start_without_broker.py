"""A server that starts while the broker is away: it waits for the broker, and does what it can hand itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.jobs import many
from e2e.judge import judge
from support.site import BROKER, Site

pytestmark = pytest.mark.slow

THREADS = {"AOS1": 2}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_a_server_starts_before_it_ever_had_a_broker_runs_to_its_end(tmp_path: Path, pool: str) -> None:
    job = many("NO BROKER YET", 20, seconds=0.01)
    with Site(tmp_path) as site:
        site.start_broker()
        run = site.submit(job)
        site.kill(BROKER)
        site.start_server("AOS1", threads=2, pool=pool, wait=False)

        assert site.wait_end(run)["status"] == "success"
        judge(site, [run], THREADS)
        site.start_broker()
