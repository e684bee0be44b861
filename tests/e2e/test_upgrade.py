"""An installation that is upgraded, with real processes: before, during, and by whom it must not be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from batchq import Job
from batchq.store import schema
from batchq.store.database import Database
from play import Clocked, Play
from support import older
from support.older import ENDED, REVISIONS
from support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

OLDER = f"is at schema {REVISIONS[0]}, not {schema.NEWEST}. Run `batchq db upgrade` first."
NEWER = f"is at schema 9999; this version of batchq knows none after {schema.NEWEST}."


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A broker and an empty database; a server counts as lost after 2 s."""
    url = request.getfixturevalue("fresh_postgresql_url") if request.param == "postgresql" else None
    with Site(tmp_path, database_url=url, lost_seconds=2, heartbeat_seconds=0.5) as site:
        site.start_broker()
        yield site


@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
def test_one_command_upgrades_a_run_half_done_and_new_servers_bring_it_to_its_end(site: Site) -> None:
    drafts = Clocked(f"sqlite:///{site.folder / 'drafts.db'}")
    schema.upgrade(drafts)
    assert older.half_done(Play(drafts)) == 1
    older.make(site.database, REVISIONS[0], drafts)
    drafts.dispose()
    site.database.dispose()
    for words in (["server", "start", "AOS1"], ["check"]):
        said = site.cli(*words, code=1 if words == ["check"] else 4)
        assert OLDER in said.stdout + said.stderr

    upgraded = site.cli("db", "upgrade").stdout
    site.start_coordinator()
    site.start_servers(["AOS1", "AOS2"])

    assert site.wait_end(1)["status"] == "error"
    assert f"is now at schema {schema.NEWEST}, before: {REVISIONS[0]}." in upgraded
    assert site.states(1) == ENDED | {"ONCE": "error"}
    assert {name for name, task in site.tasks(1).items() if "lost:" in (task["error"] or "")} == {"ONCE"}
    assert {entry.task for entry in site.ledger(1)} == {"AGAIN", "TICKET", "READY", "HANDLER", "JOINED", "LAST"}


def set_revision(database: Database, revision: str, *statements: str) -> None:
    with database.write() as tx:
        for statement in (*statements, f"UPDATE batchq_version SET version_num = '{revision}'"):
            tx.execute(text(statement))


def test_processes_that_run_when_a_newer_version_upgrades_end_what_they_run_and_stop_in_one_sentence(
    site: Site,
) -> None:
    site.start_coordinator()
    site.start_server("AOS1", threads=2)
    job = Job("ROLLED OVER")
    for number in range(6):
        task = job.task(f"task {number}", "ledger.work", kwargs={"gate": "upgraded"})
        job.task(f"after {number}", "ledger.work", after=task)
    run = site.submit(job)
    site.wait_for("two starts", lambda: len(site.ledger(run)) == 2)
    # Who still runs must be able to claim, finish and beat; how conditions are kept is nothing to them any more.
    colour = "ALTER TABLE batchq_task ADD COLUMN colour VARCHAR(8) DEFAULT 'red' NOT NULL"
    set_revision(site.database, "9999", colour, "ALTER TABLE batchq_condition RENAME outcome TO wanted")

    coordinator = site.wait_exit("coordinator")
    site.wait_for("AOS1 to have seen it", lambda: "AOS1 lets its tasks end, and stops." in site.log("AOS1"))
    site.open_gate("upgraded")
    server = site.wait_exit("AOS1")

    assert (coordinator, server) == (4, 4)
    for name, log in (("coordinator", "This coordinator stops."), ("AOS1", "AOS1 lets its tasks end, and stops.")):
        assert site.log(name).count(NEWER) == site.log(name).count(log) == 1
        assert "Traceback" not in site.log(name)
    assert site.server("AOS1")["state"] == "stopped"
    for words in (["server", "start", "AOS1"], ["db", "upgrade"]):
        assert NEWER in site.cli(*words, code=4).stderr

    # The newer version, as it would be installed next.
    set_revision(site.database, schema.NEWEST, "ALTER TABLE batchq_condition RENAME wanted TO outcome")
    assert sorted(site.states(run).values()) == ["ready"] * 4 + ["success"] * 2 + ["waiting"] * 6
    site.start_coordinator()
    site.start_server("AOS1")
    assert site.wait_end(run)["status"] == "success"
    assert len(site.ledger(run)) == 12
