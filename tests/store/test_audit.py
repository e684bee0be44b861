"""The audit (rule 39): every action leaves its lines in the transaction that takes it, and nothing removes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from batchq import actions, spec, user, views
from batchq.actions.submit import submit_jobs
from batchq.core.windows import Window, parse_time
from batchq.errors import Conflict, InvalidInput, NotFound
from batchq.spec import Job
from batchq.store import server as servers
from batchq.store.columns import RUN
from batchq.store.tables import Audit
from batchq.views.instants import iso
from play import Clocked, Play

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NIGHT = Window(parse_time("18:00"), parse_time("07:30"), 20, "Europe/Oslo")
FILE = """
groups: {BG1: {priority: high}}
servers: {AOS1: {threads: 3, groups: [BG1]}}
jobs: {JOB 2: {tasks: {A: {run: demo.work, group: BG1}}}}
"""

LICENSED = spec.JobSpec(name="JOB 3", tasks=(spec.TaskSpec(name="A", run="demo.work", limits=("none",)),))


@pytest.fixture
def batch(database: Clocked, monkeypatch: pytest.MonkeyPatch) -> Play:
    """A run of one task, and a server, on a database that shows noon; olav acts."""
    monkeypatch.setenv("BATCHQ_USER", "olav")
    database.instant = NOON
    batch = Play(database)
    batch.server("AOS1", 0)
    job = Job("JOB 1")
    job.task("A", "demo.work")
    batch.submit(job)
    return batch


def read(name: str) -> spec.JobSpec:
    """A job of this name with one task, as a file gives it."""
    return next(iter(spec.loads(f"job: {name}\ntasks: {{A: {{run: demo.work}}}}").jobs.values()))


def lines(batch: Play) -> list[tuple[str | None, ...]]:
    """The audit, oldest first: what, on what, before and after."""
    with batch.database.read() as tx:
        found = views.audit_lines(tx)
    return [(row["what"], f"{row['kind']} {row['name']}", row["before"], row["after"]) for row in reversed(found)]


ACTS = {
    "submit": (
        lambda it: submit_jobs(it, [read("JOB 2"), read("JOB 1"), read("JOB 2")]),
        [
            ("submit", "run 2", None, "JOB 2"),
            ("submit", "run 3", None, "JOB 1"),
            ("submit", "run 4", None, "JOB 2"),
        ],
    ),
    "hold": (
        lambda it: actions.hold_run(it, 1),
        [("hold", "run 1", "executing", "executing, held")],
    ),
    "release": (
        lambda it: (actions.hold_run(it, 1), actions.release_run(it, 1)),
        [
            ("hold", "run 1", "executing", "executing, held"),
            ("release", "run 1", "executing, held", "executing"),
        ],
    ),
    "cancel": (lambda it: actions.cancel_run(it, 1), [("cancel", "run 1", "executing", "canceled")]),
    "withhold": (
        lambda it: (actions.withhold_job(it, "JOB 1"), actions.release_job(it, "JOB 1")),
        [("withhold", "job JOB 1", "no", "yes"), ("release", "job JOB 1", "yes", "no")],
    ),
    "pause": (
        lambda it: (actions.pause_group(it, "default"), actions.resume_group(it, "default")),
        [("set paused", "group default", "no", "yes"), ("set paused", "group default", "yes", "no")],
    ),
    "priority": (
        lambda it: actions.set_group(it, "default", priority="high"),
        [("set priority", "group default", "normal", "high")],
    ),
    "threads": (lambda it: actions.set_server(it, "AOS1", threads=2), [("set threads", "server AOS1", "0", "2")]),
    "window": (
        lambda it: (actions.add_window(it, "AOS1", NIGHT), actions.remove_window(it, "AOS1", 1)),
        [
            ("add window", "server AOS1", None, str(NIGHT)),
            ("remove window", "server AOS1", str(NIGHT), None),
        ],
    ),
    "apply": (
        lambda it: actions.apply(it, spec.loads(FILE)),
        [
            ("set threads", "server AOS1", "0", "3"),
            ("set groups", "server AOS1", "none", "BG1"),
            ("create", "group BG1", None, "priority high"),
            ("create", "job JOB 2", None, "tasks: 1"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTS)
def test_every_action_leaves_its_lines_as_rule_39_says(batch: Play, name: str):
    act, expected = ACTS[name]
    act(batch.database)
    assert lines(batch) == expected


def test_a_changed_definition_is_told_in_the_words_of_apply(batch: Play):
    actions.apply(batch.database, spec.loads("job: JOB 1\ntasks: {A: {run: demo.work}, B: {run: demo.work}}"))
    assert lines(batch) == [("set definition", "job JOB 1", None, "B added")]


def test_a_line_says_when_who_by_what_way_and_why(batch: Play):
    with user.acting("page", who="anna"):
        actions.hold_run(batch.database, 1, reason="month end")
    with batch.database.read() as tx:
        (line,) = views.audit_lines(tx)
    assert line == {
        "at": "2026-06-01T12:00:00.000000Z",
        "who": "anna",
        "by": "page",
        "what": "hold",
        "kind": "run",
        "name": "1",
        "before": "executing",
        "after": "executing, held",
        "why": "month end",
    }


def test_each_run_of_a_lot_has_the_instant_at_which_it_opened_and_the_person_who_submitted_it(batch: Play):
    with user.acting("page", who="anna"):
        runs = submit_jobs(batch.database, [read("JOB 1"), read("JOB 2")])
    with batch.database.read() as tx:
        found = views.audit_lines(tx, what="submit")
        opened = {str(run.id): iso(run.started_at) for run in tx.execute(select(RUN.id, RUN.started_at))}
    assert [(line["name"], line["who"], line["by"], line["why"]) for line in found] == [
        (str(run), "anna", "page", None) for run in reversed(runs)
    ]
    assert all(line["at"] == opened[line["name"]] for line in found)


def test_without_a_word_the_user_of_the_process_acts_by_python(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BATCHQ_USER", "olav")
    assert user.actor() == user.Actor("olav", "python")
    with user.acting("cli"):
        assert user.actor() == user.Actor("olav", "cli")
    with user.acting("page", who="anna"):
        assert user.actor() == user.Actor("anna", "page")


def test_what_is_refused_or_only_rehearsed_leaves_no_line(batch: Play):
    with pytest.raises(Conflict):
        actions.release_run(batch.database, 1)
    with pytest.raises(NotFound):
        submit_jobs(batch.database, [read("JOB 1"), LICENSED])
    with pytest.raises(InvalidInput, match="one line"):
        actions.hold_run(batch.database, 1, reason="two\nlines")
    for act in (actions.hold_run, actions.cancel_run):
        assert act(batch.database, 1, dry_run=True)["tasks"] == 1
    actions.withhold_job(batch.database, "JOB 1", dry_run=True)
    actions.apply(batch.database, spec.loads(FILE), dry_run=True)
    actions.set_server(batch.database, "AOS1", threads=0)
    assert lines(batch) == []
    assert batch.verdict(1) == "executing"


def test_an_action_that_fails_half_way_leaves_no_line(batch: Play, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(servers, "set_server", fail)
    with pytest.raises(ZeroDivisionError):
        actions.apply(batch.database, spec.loads(FILE))
    assert lines(batch) == []


@pytest.mark.parametrize("statement", [update(Audit).values(who="nobody"), delete(Audit)], ids=["change", "removal"])
def test_the_database_refuses_a_change_or_a_removal_of_a_line(batch: Play, statement):
    actions.hold_run(batch.database, 1)
    with pytest.raises((DBAPIError, IntegrityError), match="only added to"), batch.database.write() as tx:
        tx.execute(statement)
    with batch.database.read() as tx:
        assert tx.execute(select(func.count()).select_from(Audit)).scalar_one() == 1


def test_postgresql_refuses_to_empty_the_audit(postgresql: Clocked):
    with pytest.raises(DBAPIError, match="only added to"), postgresql.write() as tx:
        tx.execute(text("TRUNCATE batchq_audit"))


def test_lines_are_chosen_by_time_person_and_action(batch: Play):
    actions.hold_run(batch.database, 1)
    batch.database.later(hours=1)
    with user.acting("cli", who="anna"):
        actions.release_run(batch.database, 1)
        actions.pause_group(batch.database, "default")

    def found(**chosen: object) -> list[str]:
        with batch.database.read() as tx:
            return [line["what"] for line in views.audit_lines(tx, **chosen)]

    assert found() == ["set paused", "release", "hold"]
    assert found(since=NOON + timedelta(minutes=1)) == ["set paused", "release"]
    assert found(who="olav") == ["hold"]
    assert found(what="hold") == ["hold"]
    assert found(what="run") == ["release", "hold"]
    assert found(limit=1) == ["set paused"]
