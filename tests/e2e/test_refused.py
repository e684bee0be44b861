"""A database that refuses an outcome, and rows that somebody broke, beside a server and a coordinator that go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from batchq import Job
from e2e.jobs import many
from support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

REFUSES = {
    "sqlite": [
        """
        CREATE TRIGGER refuses BEFORE UPDATE ON batchq_task WHEN NEW.result LIKE '%poison%' OR NEW.name = 'claimed'
        AND NEW.status = 'executing' BEGIN SELECT RAISE(ABORT, 'no poison here'); END
        """,
    ],
    "postgresql": [
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.result LIKE '%poison%' OR NEW.name = 'claimed' AND NEW.status = 'executing' THEN
                RAISE EXCEPTION 'no poison here';
            END IF;
            RETURN NEW;
        END $$
        """,
        "CREATE TRIGGER refuses BEFORE UPDATE ON batchq_task FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
}


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    url = request.getfixturevalue("fresh_postgresql_url") if request.param == "postgresql" else None
    with Site(tmp_path, **({"database_url": url} if url else {})) as site:
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1", threads=4)
        with site.database.write() as tx:
            for statement in REFUSES[request.param]:
                tx.execute(text(statement))
        yield site


def test_poisoned_outcomes_claims_and_rows_are_set_aside_within_a_second_and_told(site: Site) -> None:
    job = Job("POISONED")
    for n in range(8):
        job.task(f"T{n}", "ledger.work", kwargs={"result": "poison" if n == 3 else n})
    job.task("claimed", "ledger.work")
    job.task("after", "ledger.work", after={"T3": "success"})
    run = site.submit(job)
    tasks = site.wait_for("all but one", lambda: ended(site, run), seconds=30)

    assert {name: task["result"] for name, task in tasks.items() if name[0] == "T"} == {
        f"T{n}": None if n == 3 else n for n in range(8)
    }
    assert "the database refuses it: no poison here" in site.task(run, "T3")["history"][0]["log"]
    assert len(site.ledger(run)) == 9  # nothing ran twice

    other = site.submit(many("BESIDE", 20))
    site.wait_end(other)
    starts, ends = zip(*((entry.start, entry.end) for entry in site.ledger(other)), strict=True)
    assert max(ends) - min(starts) < 10
    problems = site.json("check", code=1)["problems"]
    (told,) = (line for line in problems if "'claimed'" in line)
    assert told.startswith(f"Task 'claimed' of run {run} can be neither handed out, claimed nor taken back (no poison")
    assert "AOS1" in {entry.server for entry in site.ledger(other)}

    with site.database.write() as tx:
        tx.execute(text("DROP TRIGGER refuses" + ("" if site.database.kind == "sqlite" else " ON batchq_task")))
    assert site.wait_end(run, seconds=90)["status"] == "success"
    assert site.json("check")["problems"] == []


def ended(site: Site, run: int) -> dict[str, dict[str, object]] | None:
    tasks = site.tasks(run)
    left = {name for name, task in tasks.items() if task["status"] != "success"}
    return tasks if left == {"claimed"} else None
