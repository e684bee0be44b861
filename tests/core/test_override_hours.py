"""An override of a server's windows: its end on the user's clock, its edges by brute force, its sentences (rule 51)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_windows import OWN, threads_by_hand, windows_and_instants

from batchq.core.lint import lint
from batchq.core.override import Override, next_time
from batchq.core.topology import Server, Topology
from batchq.core.why import why_ready
from batchq.core.windows import Window
from batchq.planning.servers import set_over
from batchq.spec import loads

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=seconds) for seconds in (1, 60, 3600, 86400))
NOON = datetime(2026, 1, 30, 12, tzinfo=UTC)  # a Friday, 13:00 in Oslo
OFFICE = Window(time(8), time(18), 2, "Europe/Oslo")
NIGHT = Window(time(18), time(7, 30), 20, "Europe/Oslo")
OFF = Window(time(0), time(0), 0, "Europe/Oslo", only=NOON.date())


def until(hours: float, threads: int = 10) -> Override:
    return Override(threads, NOON + hours * HOUR, "olav", "licence")


# --- its end on the user's clock (rule 51) -------------------------------------------------------------


@pytest.mark.parametrize(
    ("clock", "timezone", "after", "instant"),
    [
        ("07:30", "Europe/Oslo", "2026-11-23T20:00+01:00", "2026-11-24T07:30+01:00"),
        ("22:15:30", "Europe/Oslo", "2026-11-23T20:00+01:00", "2026-11-23T22:15:30+01:00"),
        ("20:00", "Europe/Oslo", "2026-11-23T20:00+01:00", "2026-11-24T20:00+01:00"),  # the next, not this one
        ("20:00", "Europe/Oslo", "2026-11-23T19:59:59.9+01:00", "2026-11-23T20:00+01:00"),
        ("01:00", "Asia/Tokyo", "2026-11-23T20:00+01:00", "2026-11-25T01:00+09:00"),
        ("02:30", "Europe/Oslo", "2027-03-27T23:00+01:00", "2027-03-28T03:30+02:00"),  # a gap moves it by an hour
        ("02:30", "Europe/Oslo", "2027-03-28T03:10+02:00", "2027-03-28T03:30+02:00"),
        ("02:30", "Europe/Oslo", "2027-03-28T03:30+02:00", "2027-03-29T02:30+02:00"),
        ("02:30", "Europe/Oslo", "2026-10-25T00:00+02:00", "2026-10-25T02:30+02:00"),  # the first of the two
        ("02:30", "Europe/Oslo", "2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"),  # and never the second
        ("23:45", "America/Scoresbysund", "2025-03-29T22:00-02:00", "2025-03-30T00:45-01:00"),  # to the next date
        ("12:00", "Pacific/Apia", "2011-12-29T13:00-10:00", "2011-12-31T12:00+14:00"),  # a date that was left out
    ],
)
def test_a_time_of_day_is_the_next_such_one_as_rule_51_says(clock, timezone, after, instant):
    found = next_time(time.fromisoformat(clock), timezone, datetime.fromisoformat(after))
    assert found == datetime.fromisoformat(instant)
    assert found.tzinfo is UTC


# --- how many threads it gives (rule 51) --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("windows", "override", "present", "change"),
    [
        ((), until(2), 10, (2, 4)),
        ((), until(2, 4), 4, None),  # as many as before: nothing changes
        ((), until(2, 0), 0, (2, 4)),
        ((), until(-1), 4, None),  # it has passed: as if there were none
        ((), until(0), 4, None),  # its end is exclusive
        ((OFFICE, NIGHT), until(2), 10, (2, 2)),
        ((OFFICE, NIGHT), until(2, 2), 2, (5, 20)),  # the window goes on with as many
        ((OFFICE, NIGHT), until(10, 20), 20, (17.5 + 1, 0)),
        ((OFFICE, NIGHT), until(10, 0), 0, (10, 20)),
        ((OFF,), until(2), 10, (2, 0)),  # a day off does not count, and then does
        ((OFF,), until(20), 10, (20, 4)),
        ((OFF,), None, 0, (11, 4)),
    ],
)
def test_until_its_end_an_override_counts_and_then_the_windows_do_again_as_rule_51_says(
    windows, override, present, change
):
    server = Server(1, "AOS1", 4, windows=windows, override=override)
    assert server.threads_now(NOON) == server.threads_at(NOON) == present
    found = server.next_change(NOON)
    assert (found and ((found - NOON) / HOUR, server.threads_at(found))) == change


@pytest.mark.parametrize(
    ("facts", "threads"),
    [({"enabled": False}, 0), ({"alive": False}, 0), ({"pool": 3}, 3), ({"pool": 0}, 0), ({"pool": 30}, 10), ({}, 10)],
)
def test_a_disabled_server_stays_disabled_and_no_pool_grows_beyond_its_most_as_rule_51_says(facts, threads):
    assert Server(1, "AOS1", 4, override=until(2), **facts).threads_now(NOON) == threads


def test_the_most_threads_of_a_server_know_its_override():
    assert Server(1, "AOS1", 4, windows=(OFFICE,), override=until(2)).most_threads == 10
    assert Server(1, "AOS1", 4, windows=(NIGHT,), override=until(2, 0)).most_threads == 20


def test_the_end_of_an_override_is_an_edge_for_all_servers_and_then_nothing_is_judged_again_and_again():
    seen = Topology((Server(1, "A", 4, override=until(2)), Server(2, "B", 3)))
    first = seen.threads_now(NOON)
    assert first == {1: 10, 2: 3}
    assert seen.threads_now(NOON + 2 * HOUR - timedelta(microseconds=1)) is first
    second = seen.threads_now(NOON + 2 * HOUR)
    assert second == {1: 4, 2: 3}
    assert seen.threads_now(NOON + 3 * HOUR) is second
    assert seen.threads_now(NOON) == first  # the clock was set back


# --- by brute force -----------------------------------------------------------------------------------------


@st.composite
def overridden(draw) -> tuple[Server, datetime]:
    """A server with windows and an override, and an instant near its end and near a change of the clocks."""
    windows, instant = draw(windows_and_instants(apart=2 * HOUR))
    shift = draw(st.sampled_from([0, 1, 60, 1799, 1800, 3599, 3600]) | st.integers(-600, 4600))
    end = instant.replace(microsecond=0) + shift * SECOND
    return Server(1, "AOS1", OWN, windows=tuple(windows), override=Override(draw(st.integers(0, 3)), end)), instant


def by_hand(server: Server, begin: datetime, seconds: int) -> list[int]:
    """The threads at `begin` and after each second: those of the override before its end, else of the windows."""
    threads = threads_by_hand(list(server.windows), begin, SECOND, seconds)
    assert server.override is not None
    left = max(0, int((server.override.until - begin) / SECOND))
    return [server.override.threads] * min(left, seconds + 1) + threads[left:]


@settings(deadline=None, max_examples=60)
@given(overridden())
def test_threads_and_their_next_change_and_opening_are_those_of_every_second_by_rule_51(case):
    server, after = case
    seconds = 75 * 60
    whole = after.replace(microsecond=0)
    found = by_hand(server, whole, seconds)

    assert [server.threads_at(whole + index * SECOND) for index in range(0, seconds, 97)] == found[:-1:97]
    differs = [whole + index * SECOND for index in range(1, seconds + 1) if found[index] != found[0]]
    opens = [max(after, whole + index * SECOND) for index in range(seconds + 1) if found[index]]
    assert server.next_change(after, seconds * SECOND) == (differs[0] if differs else None)
    assert server.next_opening(after, seconds * SECOND) == (opens[0] if opens else None)
    if differs:
        assert server.next_change(after) == differs[0]


@settings(deadline=None, max_examples=60)
@given(overridden())
def test_up_to_the_next_edge_no_second_differs_and_no_change_comes_before_it_by_rule_51(case):
    server, after = case
    whole, edge = after.replace(microsecond=0), server.next_edge(after)

    assert after < edge
    seconds = min(75 * 60, int((edge - whole) / SECOND) - 1)
    assert set(by_hand(server, whole, seconds)) == {server.threads_at(after)}
    change = server.next_change(after)
    assert change is None or edge <= change


@settings(deadline=None, max_examples=60)
@given(overridden())
def test_the_periods_have_no_holes_and_each_has_the_threads_of_all_its_seconds_by_rule_51(case):
    server, after = case
    begin, end = after, after + 75 * MINUTE
    found = list(server.periods(begin, end))

    assert (found[0].start, found[-1].end) == (begin, end)
    assert all(one.end == other.start for one, other in pairwise(found))
    whole = after.replace(microsecond=0)
    for index, threads in enumerate(by_hand(server, whole, 75 * 60)):
        if begin <= (instant := whole + index * SECOND) < end:
            assert {one.threads for one in found if one.start <= instant < one.end} == {threads}


@settings(deadline=None, max_examples=60)
@given(st.lists(overridden(), min_size=2, max_size=4))
def test_what_the_topology_remembers_of_overrides_is_what_each_server_says(cases):
    servers = [replace(server, id=number) for number, (server, _) in enumerate(cases)]
    seen = Topology(tuple(servers))
    for server in servers:
        assert server.override is not None
        for instant in (cases[0][1], server.override.until, server.override.until - timedelta(microseconds=1)):
            found = {each.id: threads for each in servers if (threads := each.threads_at(instant))}
            assert seen.threads_now(instant) == found


# --- its sentences (rules 15, 40, 51) -----------------------------------------------------------------------

SAID = "closed by an override until 16:00 Europe/Oslo (olav: 'licence')"


@pytest.mark.parametrize(
    ("servers", "why"),
    [
        (
            [Server(1, "A", 4, override=until(2, 0))],
            "BG1: A is closed by an override until 14:00 UTC (olav: 'licence')",
        ),
        ([Server(1, "A", 4, windows=(OFFICE,), override=until(3, 0))], f"BG1: A is {SAID}"),
        (
            [Server(1, "A", 4, override=Override(0, NOON + HOUR, "olav"))],
            "BG1: A is closed by an override until 13:00 UTC (olav)",
        ),
        (
            [Server(1, "A", 4, windows=(OFFICE,), override=until(24, 0))],
            "BG1: A is closed by an override until Sat 31 Jan 13:00 Europe/Oslo (olav: 'licence')",
        ),
        (
            [Server(1, "A", windows=(NIGHT,)), Server(2, "B", windows=(OFFICE,), override=until(3, 0))],
            f"BG1: B is {SAID}",
        ),
        (
            [Server(1, "A", windows=(NIGHT,)), Server(2, "B", windows=(OFFICE, NIGHT), override=until(6, 0))],
            "BG1: no server has an open window until 18:00 Europe/Oslo (A, 18:00-07:30 with 20 threads); "
            "B is closed by an override until 19:00 Europe/Oslo (olav: 'licence')",
        ),
        (
            [Server(1, "A", windows=(NIGHT,), override=until(2, 0))],  # its window is closed, and opens later
            "BG1: no server has an open window until 18:00 Europe/Oslo (A, 18:00-07:30 with 20 threads)",
        ),
        ([Server(1, "A", 0, override=until(2, 0))], "BG1: A has no threads"),
        (
            [Server(1, "A", 4, override=Override(0, NOON + 999 * DAY, readable=False))],
            "BG1: A is closed by an override that cannot be read",
        ),
        ([Server(1, "A", 0, override=until(2, 1))], "is being handed out"),
    ],
)
def test_why_names_the_override_that_closes_a_server_as_rule_51_says(servers, why):
    assert why_ready("BG1", Topology(tuple(servers)), {}, NOON) == why


@pytest.mark.parametrize(
    ("server", "problems"),
    [
        (Server(1, "A", 2, pool=4, override=until(2, 4)), []),
        (Server(1, "A", 2, override=until(2)), []),  # its pool is not known
        (Server(1, "A", 2, pool=4, override=until(-2)), []),
        (Server(1, "A", 2, pool=4, alive=False, override=until(2)), []),
        (
            Server(1, "A", 2, pool=4, override=until(2)),
            [
                "Server A has 10 threads by an override until 15:00 Europe/Oslo (olav: 'licence'), "
                "but its worker's pool holds 4 at most: it never runs more at once."
            ],
        ),
        (Server(1, "A", 2, override=until(2, 0)), []),
        (Server(1, "A", 2, override=until(25, 0)), ["Server A has no threads within 24 h: it starts nothing."]),
        (
            Server(1, "A", 2, override=Override(0, NOON + HOUR, readable=False)),
            ["Server A has an override that cannot be read: it starts nothing. Set another one, or none."],
        ),
    ],
)
def test_check_says_what_an_override_keeps_from_work_as_rules_15_and_51_say(server, problems):
    helper = Server(9, "HELPER")
    assert lint(Topology((server, helper)), ["default"], NOON, "Europe/Oslo") == problems


def test_a_plan_on_the_file_and_the_database_keeps_the_override_that_apply_would_leave():
    document = loads("servers: {A: {threads: 7}, B: {threads: 3}}")
    planned = set_over(Topology((Server(1, "A", 4, override=until(2)),)), document)
    assert [(server.threads, server.override) for server in planned.servers] == [(7, until(2)), (3, None)]
