"""What starves work silently, and is said: rule 15, with windows of one date, other zones and vanished ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time

import pytest

from batchq.core.lint import lint
from batchq.core.topology import Server, Topology
from batchq.core.windows import Window

NOON = datetime(2026, 1, 30, 12, tzinfo=UTC)  # a Friday, 13:00 in Oslo
OFFICE = Window(time(8), time(18), 2, "Europe/Oslo")
NIGHT = Window(time(18), time(7, 30), 20, "Europe/Oslo")
IDLE = Window(time(8), time(18), 0, "Europe/Oslo")
MARS = Window(time(8), time(18), 2, "Mars/Base", vanished=True)
HELPER = Server(9, "HELPER")  # it takes what no other server does


def off(day: int) -> Window:
    """No threads on that day of January."""
    return Window(time(0), time(0), 0, "Europe/Oslo", only=date(2026, 1, day))


def on(day: int, threads: int, timezone: str = "Europe/Oslo") -> Window:
    """From 08:00 to 18:00 of that day of January."""
    return Window(time(8), time(18), threads, timezone, only=date(2026, 1, day))


def server(*windows: Window, **facts: object) -> Server:
    return Server(2, "AOS2", **{"groups": frozenset({"BG1"}), "windows": windows} | facts)  # type: ignore[arg-type]


def problems(*servers: Server, groups: tuple[str, ...] = (), paused: tuple[str, ...] = ()) -> list[str]:
    return lint(Topology(servers, paused=frozenset(paused)), groups, NOON)


# --- groups that nobody serves ------------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_server_that_takes_everything():
    assert problems(Server(1, "AOS1"), groups=("default", "BG1")) == []


def test_a_group_without_any_server_waits_for_ever():
    assert problems(server(), groups=("BG1", "default")) == [
        "The default group is served by no server: its tasks wait for ever."
    ]


def test_a_group_whose_servers_are_all_disabled_waits():
    second = server(enabled=False)
    assert problems(HELPER, second, groups=("BG1", "default")) == [
        "Group BG1 is served by no enabled server (AOS2 is disabled): its tasks wait."
    ]
    assert problems(second, replace(second, id=3, name="AOS3"), groups=("BG1",)) == [
        "Group BG1 is served by no enabled server (AOS2 and AOS3 are disabled): its tasks wait."
    ]


# --- what does not open -------------------------------------------------------------------------------------

CLOSED = "Server AOS2 has no threads within 24 h: it starts nothing."
NEVER = "Server AOS2 has no window that ever opens: it starts nothing."
MONDAY = replace(OFFICE, days=frozenset({0}))


@pytest.mark.parametrize(
    ("windows", "threads", "said"),
    [
        ([OFFICE, off(30)], 1, []),
        ([OFFICE, off(30), off(31)], 1, [CLOSED]),
        ([off(30)], 1, []),
        ([off(30), off(31)], 1, [CLOSED]),
        ([off(29)], 1, []),
        ([MONDAY], 1, [CLOSED]),
        ([MONDAY, on(30, 5)], 1, []),
        ([MONDAY, on(31, 5)], 1, []),
        ([off(30), off(31)], 0, [NEVER]),
        ([IDLE], 1, [NEVER]),
        ([IDLE, replace(NIGHT, threads=0)], 1, [NEVER]),
        ([IDLE, on(29, 5)], 1, [NEVER]),
        ([IDLE, on(30, 5)], 1, []),
        ([on(28, 5), on(29, 5)], 0, [NEVER]),
        ([on(28, 5), on(29, 5)], 1, []),
        ([replace(on(30, 5), only=date(2029, 12, 31))], 0, [CLOSED]),
        ([], 0, ["Server AOS2 has no threads: it starts nothing."]),
    ],
)
def test_a_server_that_opens_late_or_never_is_named_once(windows, threads, said):
    assert problems(server(*windows, threads=threads)) == said


def test_a_server_that_does_not_open_within_a_day_is_named_with_its_groups():
    assert problems(Server(2, "AOS2", windows=(MONDAY,)), groups=("default",)) == [
        "The default group is served by AOS2 only, with no open window within 24 h: its tasks wait.",
        CLOSED,
    ]


def test_a_group_is_named_if_the_days_off_of_its_servers_leave_it_no_window_within_a_day():
    third = replace(server(NIGHT, off(30), off(31)), id=3, name="AOS3")
    second = server(OFFICE, off(30), off(31))
    assert problems(HELPER, second, third, groups=("BG1", "default"))[0] == (
        "Group BG1 is served by AOS2 and AOS3 only, with no open window within 24 h: its tasks wait."
    )
    assert not any(
        "Group BG1" in line for line in problems(HELPER, second, replace(third, windows=()), groups=("BG1",))
    )
    alone = Server(1, "AOS1", windows=(off(30), off(31)))
    assert problems(alone, groups=("default",))[0] == (
        "The default group is served by AOS1 only, with no open window within 24 h: its tasks wait."
    )


def test_a_disabled_server_and_a_paused_group_are_meant():
    assert problems(server(IDLE, enabled=False)) == []
    assert problems(HELPER, server(OFFICE), groups=("BG1", "default"), paused=("BG1", "default")) == []


# --- zones that vanished ------------------------------------------------------------------------------------

VANISHED = "Server AOS2 has windows in Mars/Base, no time zone that this machine knows: they never open."


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        ([MARS], [VANISHED]),
        ([MARS, replace(MARS, start=time(19), end=time(20))], [VANISHED]),
        ([MARS, OFFICE, NIGHT], [VANISHED]),
        ([MARS, MONDAY], [VANISHED, CLOSED]),
        ([MARS, replace(MARS, timezone="Mars/Crater")], [VANISHED, VANISHED.replace("Base", "Crater")]),
    ],
)
def test_a_zone_that_this_machine_does_not_know_any_more_is_named_once(windows, said):
    assert problems(server(*windows)) == said


# --- more threads than the pool holds -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "threads"),
    [
        ({"windows": (OFFICE, NIGHT), "pool": 8}, "20 threads in 18:00-07:30 Europe/Oslo"),
        ({"windows": (OFFICE, on(31, 9)), "pool": 8}, "9 threads in 08:00-18:00 on 2026-01-31 Europe/Oslo"),
        ({"windows": (OFFICE, on(30, 9)), "pool": 8}, "9 threads in 08:00-18:00 on 2026-01-30 Europe/Oslo"),
        ({"threads": 9, "pool": 8}, "9 threads"),
        ({"threads": 9, "windows": (off(31),), "pool": 8}, "9 threads"),
        ({"windows": (OFFICE, NIGHT), "pool": 20}, None),
        ({"windows": (OFFICE,), "threads": 9, "pool": 8}, None),  # with windows its own threads are not used
        ({"windows": (OFFICE, on(29, 9)), "pool": 8}, None),  # over
        ({"threads": 9, "pool": 0}, None),  # it stops
        ({"threads": 9, "pool": None}, None),
        ({"threads": 9, "pool": 8, "alive": False}, None),  # the next worker may have a larger one
    ],
)
def test_more_threads_than_the_pool_of_the_worker_holds_are_named(facts, threads):
    assert problems(server(**facts)) == (
        [f"Server AOS2 has {threads}, but its worker's pool holds 8 at most: it never runs more at once."]
        if threads
        else []
    )


def test_a_window_whose_zone_vanished_asks_nothing_of_the_pool():
    assert problems(server(OFFICE, replace(MARS, threads=20), pool=8)) == [VANISHED]


# --- overlap across zones -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "overlap"),
    [
        (Window(time(16), time(20), 4, "UTC"), True),
        (Window(time(17), time(20), 4, "UTC"), False),
        (Window(time(16, 30), time(17), 4, "UTC"), True),  # in winter only
        (Window(time(23), time(7, 30), 4, "America/New_York"), True),
    ],
)
def test_windows_of_two_zones_that_overlap_at_any_time_of_the_year_are_named(other, overlap):
    found = problems(server(OFFICE, other))
    assert len(found) == overlap
    assert all("overlapping windows, 08:00-18:00 Europe/Oslo and" in problem for problem in found)


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        ([OFFICE, on(31, 5, "UTC")], None),  # the date takes the place of the day's window, in every zone
        ([NIGHT, on(31, 5, "America/New_York")], None),
        (
            [NIGHT, on(31, 5, "Asia/Tokyo")],
            "18:00-07:30 Europe/Oslo and 08:00-18:00 on 2026-01-31 Asia/Tokyo",
        ),
        (
            [on(31, 5, "UTC"), on(31, 5)],
            "08:00-18:00 on 2026-01-31 UTC and 08:00-18:00 on 2026-01-31 Europe/Oslo",
        ),
        ([NIGHT, on(29, 5, "Asia/Tokyo")], None),  # over
        ([NIGHT, replace(off(31), timezone="Asia/Tokyo")], None),
        ([NIGHT, MARS], None),
    ],
)
def test_windows_of_two_zones_overlap_as_far_as_dates_leave_them(windows, said):
    found = [line for line in problems(server(*windows)) if "overlapping" in line]
    assert found == (
        [f"Server AOS2 has overlapping windows, {said}: where both are open, the larger number of threads counts."]
        if said
        else []
    )


def test_each_pair_of_overlapping_windows_is_named_once_in_the_order_of_the_windows():
    elsewhere = replace(OFFICE, timezone="UTC")
    found = problems(server(elsewhere, NIGHT, OFFICE))
    assert [line.partition("windows, ")[2].partition(": ")[0] for line in found] == [
        "08:00-18:00 UTC and 18:00-07:30 Europe/Oslo",
        "08:00-18:00 UTC and 08:00-18:00 Europe/Oslo",
    ]
