"""What operators change, on each kind of database: in force when it returns, and never half (rules 14, 23)."""

from __future__ import annotations

import threading
from datetime import date, time
from time import monotonic

import pytest
from sqlalchemy import select, text

from batchq import actions, engine, views
from batchq.actions import change, file
from batchq.core.windows import Window
from batchq.errors import Conflict, InvalidInput, NotFound
from batchq.spec import JobSpec, TaskSpec, loads
from batchq.store import run as runs
from batchq.store import server as servers
from batchq.store.database import Database
from batchq.store.group import group_priorities, name_groups
from batchq.store.limit import set_limit, tasks_with
from batchq.store.rows import rows_of
from batchq.store.tables import ServerGroup, ServerWindow
from batchq.testing.clocked import Clocked
from stage import Stage

DAY = Window(time(8), time(18), 2, "Europe/Oslo")
NIGHT = Window(time(18), time(7, 30), 20, "Europe/Oslo")
NEVER = Window(time(0), time(0), 0, "UTC")
MANY = "{job: J, tasks: {" + ", ".join(f"T{n}: {{run: demo.work}}" for n in range(200)) + "}}"


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request):
    """A stage on each kind of database."""
    database = Clocked(request.getfixturevalue(f"{request.param}_url"))
    yield Stage(database)
    database.dispose()


def server(stage, name="AOS1"):
    with stage.database.read() as tx:
        return views.server_view(tx, name)


def wait_for_one_that_waits(database):
    """Return once another connection waits for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = monotonic() + 30
    while monotonic() < deadline:
        with database.read() as tx:
            if tx.execute(waiting).scalar():
                return
    raise AssertionError("nobody waits")


def group_names(stage):
    with stage.database.read() as tx:
        return sorted(group_priorities(tx))


def stop(stage, name):
    life = stage.lives.pop(name)
    assert stage.database.run(lambda tx: engine.stop(tx, life, tx.now()))


# --- from Python --------------------------------------------------------------------------------------------


def test_windows_are_added_and_removed_and_each_difference_is_told(stage):
    database = stage.database
    stage.server("AOS1")
    off = Window(time(), time(), 0, "Europe/Oslo", None, date(2026, 12, 24))
    for window in (DAY, NIGHT, off):
        assert actions.add_window(database, "AOS1", window) == [f"server AOS1: window {window} added"]
    assert [window["window"] for window in server(stage)["windows"]] == [str(DAY), str(NIGHT), str(off)]
    assert actions.remove_window(database, "AOS1", 2) == [f"server AOS1: window {NIGHT} removed"]
    assert actions.remove_window(database, "AOS1", DAY) == [f"server AOS1: window {DAY} removed"]
    assert actions.remove_window(database, "AOS1", str(off)) == [f"server AOS1: window {off} removed"]
    with pytest.raises(NotFound, match="It has none"):
        actions.remove_window(database, "AOS1", 1)
    with pytest.raises(NotFound):
        actions.add_window(database, "AOS2", DAY)


def test_a_window_that_overlaps_is_refused_and_changes_nothing(stage):
    stage.server("AOS1", windows=[DAY])
    with pytest.raises(InvalidInput, match=r"windows: .* overlap"):
        actions.add_window(stage.database, "AOS1", Window(time(17), time(19), 2, "Europe/Oslo"))
    actions.add_window(stage.database, "AOS1", Window(time(17), time(19), 2, "UTC"))
    assert len(server(stage)["windows"]) == 2


def test_groups_are_bound_and_unbound_and_an_unknown_one_is_a_wrong_value(stage):
    database = stage.database
    stage.server("AOS1")
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work, group: BG2}, B: {run: demo.work}}}")
    assert actions.add_groups(database, "AOS1", ["BG1"]) == ["server AOS1: groups none → BG1"]
    assert actions.add_groups(database, "AOS1", ["BG2", "BG1"]) == ["server AOS1: groups BG1 → BG1, BG2"]
    assert actions.remove_groups(database, "AOS1", ["BG1"]) == ["server AOS1: groups BG1, BG2 → BG2"]
    assert actions.set_groups(database, "AOS1", ["default"]) == ["server AOS1: groups BG2 → default"]
    assert actions.set_groups(database, "AOS1", ["default"]) == []
    for act in (actions.add_groups, actions.remove_groups, actions.set_groups):
        with pytest.raises(InvalidInput, match=r"groups: no group 'BG3' \(closest: 'BG2'\)"):
            act(database, "AOS1", ["BG3"])
    assert server(stage)["groups"] == ["default"]


@pytest.mark.parametrize(
    "change",
    [
        lambda database: actions.disable(database, "AOS1"),
        lambda database: actions.add_window(database, "AOS1", NEVER),
        lambda database: actions.set_groups(database, "AOS1", ["BG1"]),
        lambda database: actions.set_server(database, "AOS1", threads=0),
        lambda database: actions.pause_group(database, "default"),
        lambda database: actions.apply(database, loads("{servers: {AOS1: {groups: [BG1]}}}")),
    ],
    ids=["disable", "add_window", "set_groups", "set_server", "pause_group", "apply"],
)
def test_what_stops_starts_takes_its_tickets_back_in_its_own_transaction(stage, change):
    stage.server("AOS1", threads=2)
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    stage.submit(MANY)
    stage.start("AOS1")
    stage.submit(MANY)
    stage.end("A")
    assert "queued" in stage.states(2).values()
    change(stage.database)
    assert "queued" not in [*stage.states(2).values(), *stage.states(3).values()]
    assert stage.start("AOS1") == []


# --- pause --------------------------------------------------------------------------------------------------


def test_a_pause_that_has_returned_is_never_followed_by_a_start(stage):
    stage.server("AOS1", threads=200)
    stage.submit(MANY)
    life, database = stage.lives["AOS1"], Database(stage.database.url.render_as_string(hide_password=False))
    offers = [engine.Offer(ticket.task, ticket.token, ticket.group) for ticket in stage.tickets.values()]
    begun, ended = threading.Event(), threading.Event()

    def claim() -> None:
        for number, offer in enumerate(offers):
            flush = engine.Flush(offers=[offer], active=number, pool=1000, more_to_settle=True)
            database.run(engine.serve, life, flush)
            begun.set()
        ended.set()

    serving = threading.Thread(target=claim)
    serving.start()
    assert begun.wait(30)
    actions.pause_group(stage.database, "default")
    with stage.database.read() as tx:
        executing = len(views.executing(tx, "AOS1"))
    assert ended.wait(60)
    serving.join()
    database.dispose()
    with stage.database.read() as tx:
        assert len(views.executing(tx, "AOS1")) == executing
    assert set(stage.states().values()) <= {"executing", "ready"}


def test_a_resumed_group_goes_on(stage):
    stage.server("AOS1")
    stage.submit()
    assert actions.pause_group(stage.database, "default") == ["group default: paused"]
    assert actions.pause_group(stage.database, "default") == []
    stage.advance()
    assert stage.states()["TASK 1"] == "ready"
    assert actions.resume_group(stage.database, "default") == ["group default: resumed"]
    stage.advance()
    stage.play()
    assert stage.view()["status"] == "success"


# --- deleting -----------------------------------------------------------------------------------------------


def test_a_deleted_server_takes_its_bindings_and_windows_with_it(stage):
    stage.server("AOS1", groups=["BG1"], windows=[DAY])
    with pytest.raises(Conflict, match="Server AOS1 runs, as pid 412 on host h"):
        actions.delete_server(stage.database, "AOS1")
    stop(stage, "AOS1")
    assert actions.delete_server(stage.database, "AOS1") == ["server AOS1: removed"]
    with stage.database.read() as tx:
        assert not views.servers(tx)
        assert not tx.execute(select(ServerGroup.server_id)).all()
        assert not tx.execute(select(ServerWindow.id)).all()
    with pytest.raises(NotFound):
        actions.delete_server(stage.database, "AOS1")


def test_a_server_cannot_be_forgotten_between_the_look_and_the_deed_if_it_starts(stage):
    life = stage.server("AOS1")
    with stage.database.write() as tx:
        assert not servers.forget(tx, life.server)


def test_a_life_of_a_deleted_server_is_fenced_off_also_from_one_that_got_its_number(stage):
    old = stage.server("AOS1")
    stop(stage, "AOS1")
    actions.delete_server(stage.database, "AOS1")
    served = stage.database.run(engine.serve, old, engine.Flush(active=0, pool=1))
    assert served.fenced
    for _ in range(3):  # lives of its successor
        new = stage.server("AOS1")
        assert new.epoch > old.epoch
        assert stage.database.run(engine.serve, old, engine.Flush(active=0, pool=1)).fenced
        assert not stage.database.run(engine.serve, new, engine.Flush(active=0, pool=1)).fenced


def test_a_group_in_use_is_not_deleted(stage):
    stage.server("AOS1", groups=["BG1"])
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}, B: {run: demo.work, after: A}}}")
    with pytest.raises(Conflict, match="bound to it: AOS1; tasks of it that have not ended: 2"):
        actions.delete_group(stage.database, "BG1")
    actions.set_groups(stage.database, "AOS1", [])
    stage.start("AOS1")
    with pytest.raises(Conflict, match="not ended: 2"):
        actions.delete_group(stage.database, "BG1")
    stage.end("A", "OSError: away")
    assert actions.delete_group(stage.database, "BG1") == ["group BG1: removed"]
    assert group_names(stage) == ["default"]


def test_a_group_is_not_deleted_while_a_run_is_being_stored(stage):
    (job,) = loads("{job: J, group: BG1, tasks: {A: {run: demo.work}}}").jobs.values()
    number, _ = stage.database.run(runs.open_run, job)
    run = number.run
    with pytest.raises(Conflict, match=f"still being stored: run {run}"):
        actions.delete_group(stage.database, "BG1")


def test_a_group_that_a_run_names_at_that_moment_survives_or_is_made_anew(stage):
    """Whoever comes first: the tasks of the run are in a group that exists."""
    if stage.database.kind == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    stage.database.run(name_groups, ["BG1"])
    (job,) = loads("{job: J, group: BG1, tasks: {A: {run: demo.work}}}").jobs.values()
    outcome: list[object] = []

    def delete() -> None:
        try:
            outcome.append(actions.delete_group(stage.database, "BG1"))
        except Conflict as error:
            outcome.append(error)

    deleting = threading.Thread(target=delete)
    with stage.database.write() as tx:
        engine.submitting.store_at_once(tx, [engine.submitting.Written(job, rows_of(job))])
        deleting.start()
        wait_for_one_that_waits(stage.database)
    deleting.join(30)
    assert isinstance(outcome[0], Conflict)
    stage.server("AOS1")
    stage.advance()
    assert stage.start("AOS1") == ["A"]


def test_a_prune_that_meets_a_conflict_changes_nothing(stage):
    stage.server("AOS1")
    stage.server("AOS2", runs=False)
    document = loads("{servers: {AOS3: {threads: 1}}, groups: {BG1: {}}}")
    with pytest.raises(Conflict, match="Server AOS1 runs"):
        actions.apply(stage.database, document, prune=True)
    with stage.database.read() as tx:
        assert [view["name"] for view in views.servers(tx)] == ["AOS1", "AOS2"]
    assert group_names(stage) == ["default"]
    stop(stage, "AOS1")
    changes = actions.apply(stage.database, document, prune=True)
    assert changes[:2] == ["server AOS1: removed", "server AOS2: removed"]


def test_a_server_that_starts_while_it_is_pruned_is_kept_and_all_is_undone(stage):
    life = {"host": "h", "pid": 1, "life": "life", "pool": 1, "pool_kind": "prefork"}
    stage.server("AOS1", runs=False)
    document = loads("{servers: {AOS3: {threads: 1}}}")

    def prune(tx):
        steps = list(file.steps(tx, document, True))
        engine.take_over(tx, servers.find(tx, "AOS1").id, "AOS1", life, tx.now())
        change.take(tx, steps, 0)

    with pytest.raises(Conflict, match="Server AOS1 runs"):
        stage.database.run(prune)
    with stage.database.read() as tx:
        assert [view["name"] for view in views.servers(tx)] == ["AOS1"]


@pytest.mark.parametrize("name", ["erp", "erp-licence", "l\N{LATIN SMALL LETTER I WITH DIAERESIS}zenz", 'a "b"'])
def test_the_open_tasks_of_a_limit_are_those_that_name_this_one_as_rule_29_says(stage, name):
    names = ["erp", "erp-licence", "l\N{LATIN SMALL LETTER I WITH DIAERESIS}zenz", 'a "b"']
    stage.database.run(lambda tx: [set_limit(tx, each, 1) for each in names])
    tasks = [TaskSpec(name=f"T {each}", run="demo.work", limits=(each,)) for each in names]
    (run,) = engine.submit_all(stage.database, [JobSpec(name="J", tasks=tuple(tasks))])
    with stage.database.read() as tx:
        assert tasks_with(tx, name, 9) == [("J", run, f"T {name}")]
