"""An override on the real engine: set, replaced, ended, and judged at the claim with both its instants (rule 51)."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from batchq import Job, actions, views
from batchq.core.override import Override
from batchq.core.windows import Window
from batchq.errors import InvalidInput, NotFound
from batchq.spec import loads
from batchq.spec.fields import MOST_THREADS
from batchq.store import topology as topologies
from play import Clocked, Play

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)  # a Monday, 14:00 in Oslo
HOUR = timedelta(hours=1)
ONE = timedelta(microseconds=1)
NIGHT = Window(time(18), time(7, 30), 5, "Europe/Oslo")
DAY = Window(time(8), time(18), 2, "Europe/Oslo")


@pytest.fixture
def batch(database: Clocked) -> Play:
    database.instant = NOON
    return Play(database)


def override(batch: Play, threads: int, until: datetime | time, name: str = "AOS1", **facts: Any) -> list[str]:
    given = {"by": "olav", "reason": "licence", "timezone": "Europe/Oslo"}
    return actions.override_server(batch.database, name, threads, until, **given | facts)


def end(batch: Play) -> list[str]:
    return actions.end_override(batch.database, "AOS1", timezone="Europe/Oslo")


def threads(batch: Play, at: datetime = NOON) -> int:
    with batch.database.read() as tx:
        (server,) = topologies.read(tx).servers
        return server.threads_now(at)


def tasks(number: int) -> Job:
    job = Job("JOB")
    for each in range(1, number + 1):
        job.task(f"TASK {each}", "demo.work")
    return job


# --- what it is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "windows", "before", "given", "after"),
    [
        (1, [], 1, 10, 1),
        (4, [], 4, 0, 4),
        (1, [NIGHT], 0, 10, 0),
        (1, [DAY], 2, 0, 2),
        (3, [Window(time(0), time(0), 0, "Europe/Oslo", only=NOON.date())], 0, 10, 0),
    ],
)
def test_until_its_end_the_server_has_so_many_threads_whatever_else_it_is_told_as_rule_51_says(
    batch, own, windows, before, given, after
):
    batch.server("AOS1", own, windows=windows)
    assert threads(batch) == before
    override(batch, given, NOON + HOUR)
    assert [threads(batch, NOON + shift) for shift in (0 * HOUR, HOUR - ONE, HOUR)] == [given, given, after]


@pytest.mark.parametrize(
    ("until", "end"),
    [
        (time(7, 30), "2026-06-02T07:30+02:00"),
        (time(14, 0), "2026-06-02T14:00+02:00"),  # it is this very instant in Oslo
        (time(14, 0, 1), "2026-06-01T14:00:01+02:00"),
        (NOON + ONE, "2026-06-01T12:00:00.000001Z"),
        (datetime.fromisoformat("2026-07-01T00:00+09:00"), "2026-07-01T00:00+09:00"),
    ],
)
def test_its_end_is_the_next_such_time_of_the_users_or_an_instant_as_rule_51_says(batch, until, end):
    batch.server("AOS1")
    override(batch, 10, until)
    with batch.database.read() as tx:
        assert topologies.read(tx).servers[0].override == Override(10, datetime.fromisoformat(end), "olav", "licence")


@pytest.mark.parametrize(
    ("name", "number", "until", "facts", "error", "said"),
    [
        ("AOS1", 10, NOON, {}, InvalidInput, "until: 14:00 Europe/Oslo has passed. Give a later instant"),
        ("AOS1", 10, NOON - 30 * HOUR, {}, InvalidInput, "until: Sun 31 May 08:00 Europe/Oslo has passed."),
        ("AOS1", 10, datetime(2026, 6, 1, 13), {}, InvalidInput, "is no instant with a time zone"),
        ("AOS1", 10, datetime(9999, 12, 31, tzinfo=UTC), {}, InvalidInput, "is no instant with a time zone"),
        ("AOS1", -1, NOON + HOUR, {}, InvalidInput, "threads: -1 is not allowed"),
        ("AOS1", MOST_THREADS + 1, NOON + HOUR, {}, InvalidInput, f"threads: {MOST_THREADS + 1} is not allowed"),
        ("AOS1", 10, time(7), {"timezone": "Mars/Base"}, InvalidInput, "'Mars/Base' is not a time zone"),
        ("AOS1", 10, time(7), {"reason": "x" * 1001}, InvalidInput, "reason: it is too long"),
        ("AOS7", 10, NOON + HOUR, {}, NotFound, "No server 'AOS7'"),
    ],
)
def test_an_instant_that_has_passed_and_what_else_is_wrong_is_refused_as_rule_51_says(
    batch, name, number, until, facts, error, said
):
    batch.server("AOS1")
    with pytest.raises(error) as raised:
        override(batch, number, until, name, **facts)
    assert said in str(raised.value)
    assert raised.value.exit_code in (2, 3)
    assert threads(batch) == 1


def test_a_second_replaces_the_first_and_now_alone_ends_it_as_rule_51_says(batch):
    batch.server("AOS1", 2)
    assert override(batch, 10, time(16)) == [
        "server AOS1: override none → 10 threads until 16:00 Europe/Oslo (olav: 'licence')"
    ]
    assert override(batch, 10, time(16)) == []
    assert override(batch, 1, time(7), reason="") == [
        "server AOS1: override 10 threads until 16:00 Europe/Oslo (olav: 'licence') → "
        "1 thread until Tue 02 Jun 07:00 Europe/Oslo (olav)"
    ]
    assert threads(batch) == 1
    assert end(batch) == ["server AOS1: override 1 thread until Tue 02 Jun 07:00 Europe/Oslo (olav) → none"]
    assert (threads(batch), end(batch)) == (2, [])


def test_one_that_has_passed_is_as_if_there_were_none_as_rule_51_says(batch):
    batch.server("AOS1", 2)
    override(batch, 10, NOON + HOUR)
    batch.database.instant = NOON + HOUR
    assert threads(batch, NOON + HOUR) == 2
    with batch.database.read() as tx:
        view = views.server_view(tx, "AOS1")
    assert (view["override"], view["next_change"], view["threads"]) == (None, None, 2)
    assert end(batch) == []
    assert override(batch, 3, NOON + 2 * HOUR)[0].startswith("server AOS1: override none → 3 threads until")


def test_apply_leaves_it_as_it_is_and_so_does_every_other_setting_as_rule_51_says(batch):
    batch.server("AOS1", 2)
    override(batch, 10, NOON + HOUR)
    document = loads(
        "servers: {AOS1: {threads: 3, windows: [{start: '08:00', end: '18:00', threads: 1, timezone: UTC}]}}"
    )
    assert len(actions.apply(batch.database, document)) == 2
    actions.set_server(batch.database, "AOS1", threads=4, windows=[NIGHT])
    batch.live("AOS1")
    assert (threads(batch), threads(batch, NOON + HOUR)) == (10, 0)


def test_a_disabled_server_stays_disabled_as_rule_51_says(batch):
    batch.server("AOS1", 2)
    actions.disable(batch.database, "AOS1")
    override(batch, 10, NOON + HOUR)
    run = batch.submit(tasks(1))
    assert (threads(batch), len(batch.mail), batch.states(run)) == (0, 0, {"TASK 1": "ready"})
    actions.enable(batch.database, "AOS1")
    assert threads(batch) == 10


# --- both its ends at dispatch and at the claim (rules 16, 20, 51) ------------------------------------------


def test_it_opens_a_closed_server_and_its_end_closes_that_again_as_rules_20_and_51_say(batch):
    batch.server("AOS1", windows=[NIGHT])
    run = batch.submit(tasks(4))
    assert not batch.mail
    override(batch, 2, NOON + HOUR)
    batch.tick()
    batch.deliver()
    assert batch.executing() == ["TASK 1", "TASK 2"]
    batch.database.instant = NOON + HOUR - ONE
    assert [row.name for row in batch.finish("TASK 1").granted] == ["TASK 3"]
    batch.database.instant = NOON + HOUR
    assert not batch.finish("TASK 2").granted
    assert batch.states(run) == {"TASK 1": "success", "TASK 2": "success", "TASK 3": "executing", "TASK 4": "ready"}


@pytest.mark.parametrize(("shift", "granted"), [(-ONE, 1), (0 * HOUR, 0)])
def test_a_claim_at_the_end_of_an_override_is_judged_by_its_own_instant_as_rules_20_and_51_say(batch, shift, granted):
    batch.server("AOS1", windows=[NIGHT])
    override(batch, 1, NOON + HOUR)
    run = batch.submit(tasks(1))
    (ticket,) = batch.mail
    batch.database.instant = NOON + HOUR + shift
    assert len(batch.serve("AOS1", offers=[ticket]).granted) == granted
    assert batch.states(run) == {"TASK 1": "executing" if granted else "ready"}


@pytest.mark.parametrize(("shift", "granted"), [(-ONE, 0), (0 * HOUR, 2)])
def test_the_windows_hold_again_from_the_very_end_of_a_closing_override_as_rules_20_and_51_say(batch, shift, granted):
    batch.server("AOS1", windows=[DAY])
    override(batch, 0, NOON + HOUR)
    run = batch.submit(tasks(3))
    batch.database.instant = NOON + HOUR + shift
    batch.tick()
    batch.deliver()
    assert sorted(batch.states(run).values()) == ["executing"] * granted + ["ready"] * (3 - granted)


def test_to_lower_threads_takes_tickets_back_in_the_same_action_as_rules_20_and_51_say(batch):
    batch.server("AOS1", 3)
    run = batch.submit(tasks(3))
    tickets = list(batch.mail)
    override(batch, 1, NOON + HOUR)
    assert sorted(batch.states(run).values()) == ["queued", "ready", "ready"]
    served = batch.serve("AOS1", offers=tickets)
    assert ([row.name for row in served.granted], served.threads) == (["TASK 1"], 1)
    override(batch, 0, NOON + HOUR)
    assert batch.states(run)["TASK 1"] == "executing"
    assert not batch.finish("TASK 1").granted


def test_to_end_an_override_takes_back_what_the_windows_do_not_allow_as_rules_20_and_51_say(batch):
    batch.server("AOS1", windows=[NIGHT])
    override(batch, 2, NOON + HOUR)
    run = batch.submit(tasks(2))
    old = list(batch.mail)
    end(batch)
    assert set(batch.states(run).values()) == {"ready"}
    assert not batch.serve("AOS1", offers=old).granted


def test_a_tick_takes_back_what_the_end_of_an_override_left_out_as_rule_51_says(batch):
    batch.server("AOS1", windows=[NIGHT])
    override(batch, 2, NOON + HOUR)
    run = batch.submit(tasks(2))
    batch.database.instant = NOON + HOUR
    batch.mail.clear()
    batch.tick()
    assert (set(batch.states(run).values()), len(batch.mail)) == ({"ready"}, 0)


# --- what nobody can read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fact"),
    [
        ("sqlite", "override_until = 'tomorrow'"),
        ("sqlite", "override_until = '0001-01-01'"),
        ("sqlite", "override_until = 5"),
        ("sqlite", "override_threads = 'x'"),
        ("sqlite", "override_threads = NULL"),
        ("postgresql", "override_until = 'infinity'"),
        ("postgresql", "override_until = '0044-03-15 BC'"),
        ("postgresql", "override_threads = NULL"),
    ],
)
def test_an_override_that_cannot_be_read_closes_its_own_server_alone(request, kind, fact):
    database: Clocked = request.getfixturevalue(kind)
    database.instant = NOON
    batch = Play(database)
    batch.server("AOS1", 2)
    override(batch, 10, NOON + HOUR)
    batch.server("AOS2", 2)
    with database.write() as tx:
        if kind == "sqlite":
            tx.execute(text("PRAGMA ignore_check_constraints = 1"))
        tx.execute(text(f"UPDATE batchq_server SET {fact} WHERE name = 'AOS1'"))
        topologies.changed(tx)
    run = batch.submit(tasks(3))
    batch.deliver()
    assert sorted(batch.states(run).values()) == ["executing", "executing", "ready"]
    assert {name for name, _ in batch.running()} == {"AOS2"}
    with database.read() as tx:
        first, second = views.servers(tx)
        assert views.setup_problems(tx)[0].startswith("Server AOS1 has an override that cannot be read")
    assert first["override"] == {"threads": 0, "until": None, "by": "", "why": ""}
    assert (first["threads"], second["threads"], second["override"]) == (0, 2, None)
    assert end(batch) == ["server AOS1: override unreadable → none"]
    with database.read() as tx:
        assert views.server_view(tx, "AOS1")["threads"] == 2
