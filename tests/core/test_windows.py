"""Windows on the wall clock: the article's example, the table of rule 18, and every kind of clock change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import combinations, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchq.core.windows import (
    Period,
    Window,
    covering,
    format_days,
    format_time,
    is_zone,
    next_change,
    next_edge,
    next_opening,
    overlaps,
    parse_date,
    parse_days,
    parse_time,
    periods,
    threads_at,
    zone,
)
from support import rules

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=seconds) for seconds in (1, 60, 3600, 86400))
OWN = 9  # threads of a server beside its windows

# Half-hour and two-hour jumps, jumps at midnight, winter time as the exception, a clock that stopped jumping.
ZONES = (
    "Africa/Casablanca",
    "America/New_York",
    "America/Santiago",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Europe/Dublin",
    "Europe/Oslo",
    "Pacific/Apia",
    "Pacific/Chatham",
)


def at(text: str) -> datetime:
    """An instant from ISO text with its offset from UTC."""
    return datetime.fromisoformat(text)


def window(
    start: str,
    end: str,
    threads: int = 1,
    timezone: str = "Europe/Oslo",
    *,
    days: Iterable[str] | None = None,
    on: str | None = None,
) -> Window:
    starts_on, only = days and parse_days(days), on and parse_date(on)
    return Window(parse_time(start), parse_time(end), threads, timezone, starts_on, only)


def off(day: str, timezone: str = "Europe/Oslo") -> Window:
    """No threads on that day."""
    return window("00:00", "00:00", 0, timezone, on=day)


def article(timezone: str) -> list[Window]:
    return [window("08:00", "18:00", 2, timezone), window("18:00", "07:30", 20, timezone)]


def changes(windows: list[Window], begin: datetime, end: datetime, threads: int = 1) -> list[datetime]:
    """Every change of threads after `begin` up to `end`, each found from the one before."""
    found = []
    moment = next_change(windows, threads, begin, end - begin)
    while moment:
        found.append(moment)
        moment = next_change(windows, threads, moment, end - moment)
    return found


def planned(windows: list[Window], begin: str, end: str, threads: int = 1) -> list[tuple[str, int]]:
    """The periods, each as its start on the wall clock of `begin` and its threads."""
    first = at(begin)
    return [
        (f"{period.start.astimezone(first.tzinfo):%d %H:%M}", period.threads)
        for period in periods(windows, threads, first, at(end))
    ]


# --- the article's example (rule 19) ---


@pytest.mark.parametrize(
    ("clock", "threads"),
    [
        ("07:59", 0),
        ("08:00", 2),
        ("17:59:59", 2),
        ("18:00", 20),
        ("07:29:59", 20),
        ("07:30", 0),
        ("07:45", 0),
    ],
)
@pytest.mark.parametrize(
    ("timezone", "day"),
    [
        (timezone, date.fromisoformat(day))
        for timezone, days in {
            "Europe/Oslo": ["2026-01-15", "2026-03-29", "2026-07-15", "2026-10-25"],
            "America/New_York": ["2026-01-15", "2026-03-08", "2026-07-15", "2026-11-01"],
            "Australia/Lord_Howe": ["2026-01-15", "2026-04-05", "2026-07-15", "2026-10-04"],
        }.items()
        for day in days
    ],
)
def test_the_articles_two_windows_leave_half_an_hour_without_threads_on_every_day(timezone, day, clock, threads):
    instant = datetime.combine(day, parse_time(clock), ZoneInfo(timezone))

    assert threads_at(article(timezone), 7, instant) == threads
    assert threads_at(article(timezone), 7, instant.astimezone(UTC)) == threads


def test_the_articles_night_is_an_hour_shorter_when_clocks_go_forward_and_longer_when_they_go_back():
    windows = article("Europe/Oslo")

    assert changes(windows, at("2026-03-28T12:00+01:00"), at("2026-03-29T12:00+02:00")) == [
        at("2026-03-28T17:00Z"),
        at("2026-03-29T05:30Z"),
        at("2026-03-29T06:00Z"),
    ]
    assert changes(windows, at("2026-10-24T12:00+02:00"), at("2026-10-25T12:00+01:00")) == [
        at("2026-10-24T16:00Z"),
        at("2026-10-25T06:30Z"),
        at("2026-10-25T07:00Z"),
    ]


def test_without_windows_a_server_has_its_threads_round_the_clock():
    noon = at("2026-05-05T12:00Z")

    assert threads_at([], 3, noon) == 3
    assert next_change([], 3, noon) is None
    assert next_opening([], 3, noon) == noon
    assert next_opening([], 0, noon) is None


def test_with_windows_a_servers_own_threads_are_not_used():
    windows = [window("08:00", "09:00", 0), window("10:00", "11:00", 4)]

    assert threads_at(windows, 9, at("2026-05-05T08:30+02:00")) == 0
    assert threads_at(windows, 9, at("2026-05-05T09:30+02:00")) == 0
    assert threads_at(windows, 9, at("2026-05-05T10:30+02:00")) == 4


# --- what a window covers (rule 18) ---


@pytest.mark.parametrize(
    ("start", "end", "inside", "outside"),
    [
        ("08:00", "18:00", ["08:00", "12:00", "17:59:59"], ["00:00", "07:59:59", "18:00", "23:59:59"]),
        ("22:00", "06:00", ["22:00", "23:59:59", "00:00", "05:59:59"], ["06:00", "12:00", "21:59:59"]),
        ("18:00", "00:00", ["18:00", "23:59:59"], ["00:00", "17:59:59"]),
        ("00:00", "08:00", ["00:00", "07:59:59"], ["08:00", "23:59:59"]),
        ("08:00", "08:00", ["00:00", "07:59:59", "08:00", "08:00:01", "23:59:59"], []),
        ("00:00", "00:00", ["00:00", "12:00", "23:59:59"], []),
        ("12:00:05", "12:00:06", ["12:00:05"], ["12:00:04", "12:00:06"]),
        ("12:00:06", "12:00:05", ["12:00:06", "12:00:04"], ["12:00:05"]),
    ],
)
def test_a_window_holds_its_start_and_what_follows_but_not_its_end(start, end, inside, outside):
    def covered(clock: str) -> bool:
        return window(start, end).covers(datetime.combine(date(2026, 5, 5), parse_time(clock), ZoneInfo("Europe/Oslo")))

    assert [clock for clock in inside if not covered(clock)] == []
    assert [clock for clock in outside if covered(clock)] == []


def test_the_last_fraction_of_a_second_before_the_end_still_counts():
    assert window("08:00", "18:00").covers(at("2026-05-05T17:59:59.999999+02:00"))
    assert not window("08:00", "18:00").covers(at("2026-05-05T07:59:59.999999+02:00"))


def test_a_window_in_the_hour_that_is_skipped_does_not_open_that_day():
    short = [window("02:15", "02:45")]

    assert changes(short, at("2026-03-28T12:00Z"), at("2026-03-30T12:00Z")) == [
        at("2026-03-30T00:15Z"),
        at("2026-03-30T00:45Z"),
    ]


def test_a_window_in_the_hour_that_comes_twice_opens_twice():
    short = [window("02:15", "02:45")]

    assert changes(short, at("2026-10-24T12:00Z"), at("2026-10-25T12:00Z")) == [
        at("2026-10-25T00:15Z"),
        at("2026-10-25T00:45Z"),
        at("2026-10-25T01:15Z"),
        at("2026-10-25T01:45Z"),
    ]


def test_a_window_that_starts_in_the_skipped_hour_opens_at_the_jump():
    assert changes([window("02:30", "05:00")], at("2026-03-29T00:00Z"), at("2026-03-29T12:00Z")) == [
        at("2026-03-29T01:00Z"),
        at("2026-03-29T03:00Z"),
    ]


def test_a_window_that_ends_in_the_hour_that_comes_twice_opens_again_when_the_clock_goes_back():
    assert changes([window("01:00", "02:30")], at("2026-10-24T22:00Z"), at("2026-10-25T12:00Z")) == [
        at("2026-10-24T23:00Z"),
        at("2026-10-25T00:30Z"),
        at("2026-10-25T01:00Z"),
        at("2026-10-25T01:30Z"),
    ]


def test_where_the_clock_falls_back_over_midnight_the_evening_comes_twice_and_belongs_to_the_old_day():
    saturdays = [window("23:15", "23:45", timezone="America/Santiago", days=["sat"])]

    assert changes(saturdays, at("2026-04-04T12:00Z"), at("2026-04-05T12:00Z")) == [
        at("2026-04-05T02:15Z"),
        at("2026-04-05T02:45Z"),
        at("2026-04-05T03:15Z"),
        at("2026-04-05T03:45Z"),
    ]


def test_where_midnight_itself_is_skipped_the_day_starts_at_the_jump():
    sundays = [window("00:00", "00:00", timezone="America/Santiago", days=["sun"])]

    assert changes(sundays, at("2026-09-05T12:00Z"), at("2026-09-07T12:00Z")) == [
        at("2026-09-06T04:00Z"),
        at("2026-09-07T03:00Z"),
    ]


def test_across_zones_the_larger_number_of_threads_wins():
    windows = [window("08:00", "16:00", 2, "Europe/Oslo"), window("08:00", "16:00", 5, "America/New_York")]

    assert threads_at(windows, 1, at("2026-05-05T11:59Z")) == 2
    assert threads_at(windows, 1, at("2026-05-05T12:00Z")) == 5
    assert threads_at(windows[::-1], 1, at("2026-05-05T13:00Z")) == 5
    assert threads_at(windows, 1, at("2026-05-05T14:00Z")) == 5
    assert threads_at(windows, 1, at("2026-05-05T20:00Z")) == 0


# --- weekdays (rule 21) ---


@pytest.mark.parametrize(
    ("start", "end", "day", "first", "last"),
    [
        ("22:00", "06:00", "fri", "2026-05-08T22:00+02:00", "2026-05-09T06:00+02:00"),
        ("22:00", "06:00", "sun", "2026-05-10T22:00+02:00", "2026-05-11T06:00+02:00"),
        ("06:00", "06:00", "wed", "2026-05-06T06:00+02:00", "2026-05-07T06:00+02:00"),
        ("00:00", "00:00", "mon", "2026-05-04T00:00+02:00", "2026-05-05T00:00+02:00"),
        ("08:00", "18:00", "sat", "2026-05-09T08:00+02:00", "2026-05-09T18:00+02:00"),
    ],
)
def test_a_night_belongs_to_the_weekday_on_which_it_starts(start, end, day, first, last):
    weekly = [window(start, end, days=[day])]

    assert changes(weekly, at(first) - HOUR, at(first) + 6 * DAY) == [at(first), at(last)]


def test_without_a_single_day_a_window_never_opens():
    never = Window(time(8), time(8), 1, "UTC", frozenset())

    assert next_opening([never], 1, at("2026-05-05T12:00Z")) is None
    assert overlaps([never, window("08:00", "09:00", timezone="UTC")]) == []


def test_a_dated_plan_can_ask_on_which_day_the_present_period_began():
    night = window("22:00", "06:00", days=["fri"])

    assert night.day_of(at("2026-12-24T02:00+01:00")) == date(2026, 12, 23)
    assert night.day_of(at("2026-12-24T22:00+01:00")) == date(2026, 12, 24)
    assert night.day_of(at("2026-12-24T12:00+01:00")) is None
    assert night.starts_on(date(2026, 12, 25))
    assert not night.starts_on(date(2026, 12, 24))


# --- exceptions (rule 21) ---


def test_a_day_off_leaves_the_night_that_began_before_it_until_its_end():
    assert planned(
        [*article("Europe/Oslo"), off("2026-12-24")], "2026-12-23T12:00+01:00", "2026-12-25T12:00+01:00"
    ) == [
        ("23 12:00", 2),
        ("23 18:00", 20),
        ("24 07:30", 0),
        ("25 08:00", 2),
    ]


def test_an_exception_replaces_the_windows_of_its_weekday_and_of_every_day():
    windows = [
        window("08:00", "18:00", 2, days=["thu", "fri"]),
        window("20:00", "02:00", 3),
        window("10:00", "12:00", 5, on="2026-12-24"),
    ]

    assert overlaps(windows) == []
    assert planned(windows, "2026-12-24T00:00+01:00", "2026-12-26T00:00+01:00") == [
        ("24 00:00", 3),
        ("24 02:00", 0),
        ("24 10:00", 5),
        ("24 12:00", 0),
        ("25 08:00", 2),
        ("25 18:00", 0),
        ("25 20:00", 3),
    ]


def test_a_date_may_have_several_windows_and_the_last_may_go_on_into_the_next_day():
    windows = [
        *article("Europe/Oslo"),
        window("08:00", "10:00", 7, on="2026-12-24"),
        window("14:00", "01:30", 8, on="2026-12-24"),
    ]

    assert overlaps(windows) == []
    assert planned(windows, "2026-12-24T00:00+01:00", "2026-12-25T20:00+01:00") == [
        ("24 00:00", 20),
        ("24 07:30", 0),
        ("24 08:00", 7),
        ("24 10:00", 0),
        ("24 14:00", 8),
        ("25 01:30", 0),
        ("25 08:00", 2),
        ("25 18:00", 20),
    ]


def test_an_exception_counts_in_every_zone_on_the_days_that_start_there():
    windows = [
        window("08:00", "18:00", 2, "Europe/Oslo"),
        window("20:00", "04:00", 5, "America/New_York"),
        off("2026-12-24"),
    ]

    assert planned(windows, "2026-12-23T18:00-05:00", "2026-12-26T00:00-05:00") == [
        ("23 18:00", 0),
        ("23 20:00", 5),
        ("24 04:00", 0),
        ("25 02:00", 2),
        ("25 12:00", 0),
        ("25 20:00", 5),
    ]


def test_a_server_without_other_windows_has_its_own_threads_on_all_other_days():
    assert planned([off("2026-12-24")], "2026-12-23T12:00+01:00", "2027-12-31T12:00+01:00", threads=3) == [
        ("23 12:00", 3),
        ("24 00:00", 0),
        ("25 00:00", 3),
    ]
    night = [window("22:00", "06:00", 7, on="2026-12-24")]
    assert planned(night, "2026-12-23T12:00+01:00", "2026-12-26T12:00+01:00", threads=3) == [
        ("23 12:00", 3),
        ("24 00:00", 0),
        ("24 22:00", 7),
        ("25 06:00", 3),
    ]
    assert planned(night, "2026-12-24T12:00+01:00", "2026-12-26T12:00+01:00", threads=8)[-2:] == [
        ("24 22:00", 7),
        ("25 00:00", 8),
    ]


def test_days_off_in_two_zones_are_off_while_it_is_that_day_in_either():
    days_off = [off("2026-12-24"), off("2026-12-24", "America/New_York")]

    assert changes(days_off, at("2026-12-20T00:00Z"), at("2026-12-30T00:00Z")) == [
        at("2026-12-24T00:00+01:00"),
        at("2026-12-25T00:00-05:00"),
    ]


def test_a_day_off_whose_midnight_is_skipped_starts_at_the_jump():
    day_off = [off("2026-09-06", "America/Santiago")]

    assert changes(day_off, at("2026-09-01T00:00Z"), at("2026-09-30T00:00Z")) == [
        at("2026-09-06T04:00Z"),
        at("2026-09-07T03:00Z"),
    ]


def test_what_opens_next_is_found_beyond_three_weeks_of_days_off():
    closure = [off(f"2026-07-{day:02}") for day in range(6, 27)]
    monday = at("2026-07-06T12:00+02:00")

    assert next_opening([*article("Europe/Oslo"), *closure], 1, monday) == at("2026-07-27T08:00+02:00")
    assert next_change([*article("Europe/Oslo"), *closure], 1, monday) == at("2026-07-27T08:00+02:00")
    assert next_opening(closure, 1, monday) == at("2026-07-27T00:00+02:00")
    assert next_change(closure, 1, monday - 5 * DAY) == at("2026-07-06T00:00+02:00")
    fridays = [window("08:00", "09:00", days=["fri"]), *closure]
    assert next_opening(fridays, 1, monday) == at("2026-07-31T08:00+02:00")
    assert next_opening(fridays, 1, monday, 25 * DAY) == at("2026-07-31T08:00+02:00")
    assert next_opening(fridays, 1, monday, 24 * DAY) is None


def test_what_opens_next_is_found_where_every_friday_for_a_while_is_off():
    fridays = [
        window("08:00", "09:00", days=["fri"]),
        *(off(day) for day in ("2026-07-10", "2026-07-17", "2026-07-24")),
    ]

    assert next_opening(fridays, 1, at("2026-07-03T09:00+02:00")) == at("2026-07-31T08:00+02:00")


def test_an_exception_years_from_now_is_the_next_change_of_a_server_that_has_no_other():
    now = at("2026-05-05T12:00Z")
    day_off, month_end = off("2031-12-24"), window("18:00", "00:00", 20, on="2031-12-31")

    assert next_change([day_off], 1, now) == at("2031-12-24T00:00+01:00")
    assert next_opening([month_end], 0, now) == at("2031-12-31T18:00+01:00")
    assert next_opening([window("08:00", "18:00", 0), day_off, month_end], 1, now) == at("2031-12-31T18:00+01:00")
    assert next_opening([window("08:00", "18:00", 0), day_off, month_end], 1, at("2032-01-01T00:00Z")) is None
    assert next_change([day_off], 1, at("2031-12-25T00:00Z")) is None


# --- when it changes next (rule 20, 40) ---


def test_the_next_change_is_later_than_after_even_on_the_second():
    office = [window("08:00", "18:00", timezone="UTC")]
    opens, closes = at("2026-05-05T08:00Z"), at("2026-05-05T18:00Z")

    assert next_change(office, 1, opens - timedelta(microseconds=1)) == opens
    assert next_change(office, 1, opens) == closes
    assert next_change(office, 1, opens + timedelta(microseconds=1)) == closes


def test_the_next_change_is_given_in_utc_whatever_zone_the_question_is_in():
    answers = [
        next_change([window("08:00", "18:00")], 1, at("2026-05-05T09:00+05:45")),
        next_opening([window("08:00", "18:00")], 1, at("2026-05-05T09:00+05:45")),
        next_opening([window("08:00", "18:00")], 1, at("2026-05-05T12:00+05:45")),
    ]

    assert answers == [at("2026-05-05T06:00Z"), at("2026-05-05T06:00Z"), at("2026-05-05T06:15Z")]
    assert [answer.tzinfo for answer in answers if answer] == [UTC] * 3


def test_a_question_between_two_seconds_finds_a_jump_of_the_clock_exactly():
    jump = at("2026-03-29T01:00Z")
    sundays = [window("02:30", "05:00", days=["sun"])]

    for early in (DAY - SECOND / 2, DAY, DAY + SECOND / 2, SECOND / 2):
        assert next_change(sundays, 1, jump - early) == jump


def test_a_change_of_windows_with_the_same_threads_is_no_change():
    assert next_change([window("08:00", "20:00", 3), window("20:00", "08:00", 3)], 1, at("2026-05-05T12:00Z")) is None


def test_the_horizon_is_the_last_instant_that_is_looked_at():
    office = [window("08:00", "18:00", timezone="UTC")]
    midnight = at("2026-05-05T00:00Z")

    assert next_change(office, 1, midnight, 8 * HOUR) == at("2026-05-05T08:00Z")
    assert next_change(office, 1, midnight, 8 * HOUR - SECOND) is None
    assert next_opening(office, 1, midnight, 8 * HOUR - SECOND) is None
    assert next_change(office, 1, midnight, timedelta(0)) is None


def test_a_weekly_window_is_found_within_the_default_horizon():
    weekly = [window("02:15", "02:45", days=["mon"])]

    assert next_opening(weekly, 1, at("2026-10-19T02:45+02:00")) == at("2026-10-26T02:15+01:00")


def test_a_weekly_window_that_the_clock_skips_once_is_found_the_week_after():
    sundays = [window("02:15", "02:45", days=["sun"])]

    assert next_opening(sundays, 1, at("2026-03-22T02:45+01:00")) == at("2026-04-05T02:15+02:00")
    assert next_opening([*sundays, off("2026-03-22")], 1, at("2026-03-21T00:00Z")) == at("2026-04-05T02:15+02:00")


def test_the_next_opening_passes_over_windows_without_threads():
    windows = [window("08:00", "12:00", 0), window("12:00", "18:00", 2)]

    assert next_opening(windows, 1, at("2026-05-05T07:00+02:00")) == at("2026-05-05T12:00+02:00")


@pytest.mark.parametrize(
    "question",
    [
        lambda naive: window("08:00", "18:00").covers(naive),
        lambda naive: threads_at([window("08:00", "18:00")], 1, naive),
        lambda naive: next_change([], 1, naive),
        lambda naive: next_edge([], naive),
        lambda naive: next_opening([], 1, naive),
        lambda naive: list(periods([], 1, naive, at("2026-05-06T12:00Z"))),
        lambda naive: list(periods([], 1, at("2026-05-04T12:00Z"), naive)),
    ],
)
def test_an_instant_without_a_zone_is_refused(question: Callable[[datetime], object]):
    with pytest.raises(ValueError, match=r"2026-05-05 12:00:00 has no time zone\. Give an aware one"):
        question(datetime(2026, 5, 5, 12))


# --- periods ---


def test_periods_are_cut_at_both_ends_and_given_in_utc():
    assert list(
        periods(article("Europe/Oslo"), 1, at("2026-05-05T07:15:30.5+02:00"), at("2026-05-05T12:00-04:00"))
    ) == [
        Period(at("2026-05-05T05:15:30.5Z"), at("2026-05-05T05:30Z"), 20),
        Period(at("2026-05-05T05:30Z"), at("2026-05-05T06:00Z"), 0),
        Period(at("2026-05-05T06:00Z"), at("2026-05-05T16:00Z"), 2),
    ]
    noon = at("2026-05-05T12:00+02:00")
    (period,) = periods([], 3, noon, noon + 400 * DAY)
    assert (period.start, period.end, period.threads) == (noon, noon + 400 * DAY, 3)
    assert period.start.tzinfo is period.end.tzinfo is UTC


def test_no_time_has_no_periods():
    noon = at("2026-05-05T12:00Z")

    assert list(periods(article("UTC"), 1, noon, noon)) == list(periods(article("UTC"), 1, noon, noon - DAY)) == []


# --- zones that vanished ---

MARS = Window(time(8), time(18), 2, "Mars/Base", vanished=True)


def test_a_window_whose_zone_vanished_never_opens_and_leaves_the_others_alone():
    noon = at("2026-05-05T12:00Z")

    assert not MARS.covers(noon)
    assert threads_at([MARS], 3, noon) == 0
    assert next_change([MARS], 3, noon) is next_opening([MARS], 3, noon) is None
    assert list(periods([MARS], 3, noon, noon + DAY)) == [Period(noon, noon + DAY, 0)]
    assert overlaps([MARS, *article("Europe/Oslo")]) == []
    beside, alone = [MARS, *article("Europe/Oslo")], article("Europe/Oslo")
    assert list(periods(beside, 1, noon, noon + 3 * DAY)) == list(periods(alone, 1, noon, noon + 3 * DAY))
    assert str(MARS) == "08:00-18:00=2 Mars/Base"


def test_an_exception_whose_zone_vanished_still_takes_the_place_of_that_days_windows():
    noon = at("2026-12-24T12:00+01:00")
    lost = Window(time(8), time(18), 2, "Mars/Base", only=noon.date(), vanished=True)

    assert threads_at([*article("Europe/Oslo"), lost], 1, noon) == 0
    assert threads_at([*article("Europe/Oslo"), lost], 1, noon + DAY) == 2
    assert threads_at([lost], 3, noon) == 3  # when its day begins and ends nobody knows
    assert next_change([lost], 3, noon - DAY) is None


# --- overlap (rules 18, 21) ---


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (window("08:00", "18:00"), window("18:00", "07:30"), False),
        (window("08:00", "18:00"), window("17:59:59", "20:00"), True),
        (window("08:00", "18:00"), window("10:00", "11:00"), True),
        (window("10:00", "11:00"), window("08:00", "18:00"), True),
        (window("08:00", "18:00"), window("08:00", "18:00"), True),
        (window("22:00", "06:00"), window("05:00", "07:00"), True),
        (window("22:00", "06:00"), window("21:00", "22:00"), False),
        (window("08:00", "08:00"), window("03:00", "03:01"), True),
        (window("08:00", "18:00", days=["mon"]), window("08:00", "18:00", days=["tue"]), False),
        (window("22:00", "06:00", days=["mon"]), window("05:00", "07:00", days=["tue"]), True),
        (window("22:00", "06:00", days=["mon"]), window("05:00", "07:00", days=["mon"]), False),
        (window("22:00", "06:00", days=["sun"]), window("05:00", "07:00", days=["mon"]), True),
        (window("06:00", "06:00", days=["sun"]), window("05:00", "07:00", days=["sun"]), True),
        (window("06:00", "06:00", days=["sun"]), window("06:00", "06:00", days=["mon"]), False),
        (window("08:00", "18:00", timezone="UTC"), window("08:00", "18:00"), False),
    ],
)
def test_windows_of_one_zone_overlap_where_their_periods_meet_in_the_week(one, other, meet):
    assert overlaps([one, other]) == ([(one, other)] if meet else [])
    assert overlaps([other, one]) == ([(other, one)] if meet else [])


@pytest.mark.parametrize(
    ("windows", "meet"),
    [
        # the night before goes on into the exception's day
        ([window("22:00", "06:00"), window("06:00", "08:00", on="2026-12-24")], False),
        ([window("22:00", "06:00"), window("05:59:59", "08:00", on="2026-12-24")], True),
        ([window("22:00", "06:00", days=["thu"]), window("05:00", "08:00", on="2026-12-24")], False),
        ([window("22:00", "06:00", days=["wed"]), window("05:00", "08:00", on="2026-12-24")], True),
        # the windows of its own day give way
        ([window("08:00", "18:00"), window("09:00", "19:00", on="2026-12-24")], False),
        ([window("08:00", "08:00"), window("08:00", "19:00", on="2026-12-24")], False),
        ([window("08:00", "08:00"), window("07:00", "19:00", on="2026-12-24")], True),
        # it goes on into the windows of the day after it
        ([window("03:00", "05:00"), window("20:00", "03:00", on="2026-12-24")], False),
        ([window("03:00", "05:00"), window("20:00", "04:00", on="2026-12-24")], True),
        ([window("03:00", "05:00", days=["thu"]), window("20:00", "04:00", on="2026-12-24")], False),
        ([window("03:00", "05:00"), window("20:00", "04:00", on="2026-12-24"), off("2026-12-25")], False),
        # two of one date, and of two dates
        ([window("08:00", "10:00", on="2026-12-24"), window("10:00", "12:00", on="2026-12-24")], False),
        ([window("08:00", "10:00", on="2026-12-24"), window("09:00", "12:00", on="2026-12-24")], True),
        ([window("20:00", "04:00", on="2026-12-24"), window("03:00", "05:00", on="2026-12-25")], True),
        ([window("20:00", "04:00", on="2026-12-24"), window("04:00", "05:00", on="2026-12-25")], False),
        ([window("20:00", "04:00", on="2026-12-24"), window("03:00", "05:00", on="2026-12-26")], False),
        # a day off is no window that could meet one
        ([window("22:00", "06:00"), off("2026-12-24")], False),
        ([window("20:00", "04:00", on="2026-12-23"), off("2026-12-24")], False),
        ([window("08:00", "10:00", on="2026-12-24"), off("2026-12-24")], False),
        # across zones the larger number wins
        ([window("22:00", "06:00"), window("05:00", "08:00", timezone="UTC", on="2026-12-24")], False),
    ],
)
def test_a_dated_window_overlaps_what_is_left_of_the_windows_around_it(windows, meet):
    assert overlaps(windows) == ([(windows[0], windows[1])] if meet else [])
    assert len(overlaps(windows[::-1])) == meet


def test_every_overlapping_pair_is_reported_once_in_the_order_given():
    day, noon, night, also_noon = (
        window("08:00", "18:00"),
        window("12:00", "13:00"),
        window("18:00", "08:00"),
        window("12:30", "12:40"),
    )

    assert overlaps([day, noon, night, also_noon]) == [(day, noon), (day, also_noon), (noon, also_noon)]
    assert overlaps([day]) == overlaps([]) == []


# --- reading and writing (rule 17) ---


@pytest.mark.parametrize(
    ("text", "value", "printed"),
    [
        ("00:00", time(0), "00:00"),
        ("18:00", time(18), "18:00"),
        ("18:00:00", time(18), "18:00"),
        ("18:00:05", time(18, 0, 5), "18:00:05"),
        ("23:59:59", time(23, 59, 59), "23:59:59"),
    ],
)
def test_times_are_read_and_printed_with_seconds_only_where_there_are_any(text, value, printed):
    assert parse_time(text) == value
    assert format_time(value) == printed


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("24:00", 'Write midnight as "00:00"'),
        ("24:00:00", 'Write midnight as "00:00"'),
        ("25:00", "Hours go from 00 to 23"),
        ("24:01", "Hours go from 00 to 23"),
        ("08:60", "minutes and seconds from 00 to 59"),
        ("08:00:60", "minutes and seconds from 00 to 59"),
        ("8", '"HH:MM" or "HH:MM:SS"'),
        ("08:5", '"HH:MM" or "HH:MM:SS"'),
        ("8:00", '"HH:MM" or "HH:MM:SS"'),
        ("", '"HH:MM" or "HH:MM:SS"'),
        (" 08:00", '"HH:MM" or "HH:MM:SS"'),
        ("08:00\n", '"HH:MM" or "HH:MM:SS"'),
        ("08:00:00.5", '"HH:MM" or "HH:MM:SS"'),
        ("08:00+02:00", '"HH:MM" or "HH:MM:SS"'),
        ("-1:00", '"HH:MM" or "HH:MM:SS"'),
        ("٠٨:٠٠", '"HH:MM" or "HH:MM:SS"'),
        ("6 pm", '"HH:MM" or "HH:MM:SS"'),
        (1080, "1080 is not a time of day. Write it as text"),
        (None, "None is not a time of day. Write it as text"),
        (time(8), "Write it as text"),
    ],
)
def test_what_is_not_a_time_is_refused_with_advice(text, advice):
    with pytest.raises(ValueError) as refusal:
        parse_time(text)
    assert "is not a time of day" in str(refusal.value)
    assert advice in str(refusal.value)


def test_days_are_read_short_or_in_full_in_any_case_and_printed_short_in_order():
    assert parse_days(["sun", "Monday", "WED", "mon"]) == {0, 2, 6}
    assert format_days(frozenset({6, 0, 2})) == ["mon", "wed", "sun"]
    assert format_days(parse_days(["saturday", "friday", "thursday", "tuesday"])) == [
        "tue",
        "thu",
        "fri",
        "sat",
    ]


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (
            ["mon", "tuseday"],
            "'tuseday' is not a day (closest: 'tuesday'). Use mon, tue, wed, thu, fri, sat, sun.",
        ),
        (["xyz"], "'xyz' is not a day. Use mon, tue, wed, thu, fri, sat, sun."),
        ([0], "0 is not a day. Use mon, tue, wed, thu, fri, sat, sun."),
        ([[]], "[] is not a day. Use mon, tue, wed, thu, fri, sat, sun."),
        ("mon", "'mon' is not a list of days. Write a list, such as [mon, tue]."),
        (5, "5 is not a list of days. Write a list, such as [mon, tue]."),
        ([], "A window without days never opens. Name a day, or leave the days out for every day."),
    ],
)
def test_what_is_not_a_day_is_refused_with_advice(names, advice):
    with pytest.raises(ValueError) as refusal:
        parse_days(names)
    assert str(refusal.value) == advice


def test_dates_are_read():
    assert parse_date("2026-12-24") == date(2026, 12, 24)
    assert parse_date("2028-02-29") == date(2028, 2, 29)


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-29",
        "2026-13-01",
        "2026-00-10",
        "0000-01-01",
        "2026-2-3",
        "20261224",
        "2026-W52-4",
        "24.12.2026",
        "2026-12-24\n",
        " 2026-12-24",
        "2026-12-24T00:00",
        "٢٠٢٦-12-24",
        "",
        "2" * 1_000_000,
        20261224,
        None,
        date(2026, 12, 24),
    ],
)
def test_what_is_not_a_date_is_refused_with_advice(text):
    with pytest.raises(ValueError, match=r'is not a date\. Write it as text, "YYYY-MM-DD", such as') as refusal:
        parse_date(text)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("shown", "text", "span"),
    [
        (window("18:00", "07:30", 20), "18:00-07:30=20 Europe/Oslo", "18:00-07:30"),
        (
            window("18:00:05", "00:00", 2, "UTC", days=["fri", "mon"]),
            "18:00:05-00:00=2 UTC [mon,fri]",
            "18:00:05-00:00",
        ),
        (off("2026-12-24"), "00:00-00:00=0 Europe/Oslo [2026-12-24]", "00:00-00:00 on 2026-12-24"),
    ],
)
def test_a_window_is_shown_with_its_days_or_its_date(shown, text, span):
    assert (str(shown), shown.span) == (text, span)


def test_a_zone_is_known_by_its_exact_name_only():
    assert is_zone("Europe/Oslo")
    assert not any(map(is_zone, ["europe/oslo", "Mars/Base", "localtime", "Factory", "", "/etc/localtime"]))


def test_a_zone_is_opened_once():
    assert zone("Europe/Oslo") is zone("Europe/Oslo")
    assert zone("Europe/Oslo").key == "Europe/Oslo"
    assert zone("UTC").key == "UTC"


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("Europe/Olso", "'Europe/Oslo'"),
        ("europe/oslo", "'Europe/Oslo'"),
        ("oslo", "(closest: 'Europe/Oslo')"),
        ("New York", "(closest: 'America/New_York')"),
        ("utc", "(closest: 'UTC')"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_closest_names(name, suggested):
    with pytest.raises(ValueError, match="is not a time zone") as refusal:
        zone(name)
    assert suggested in str(refusal.value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "Europe/",
        "/etc/localtime",
        "../../etc/localtime",
        "Europe/../Europe/Oslo",
        "localtime",
        "Factory",
        "Europe/Oslo\0",
        "\ud800",
        "a" * 1_000_000,
        5,
    ],
)
def test_neither_a_path_nor_the_machines_own_zone_is_a_zone(name):
    with pytest.raises(ValueError, match="is not a time zone") as refusal:
        zone(name)
    assert "Use an IANA name" in str(refusal.value)
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"start": time(8, 0, 0, 1)}, r"not at 08:00:00\.000001"),
        ({"end": time(8, tzinfo=UTC)}, r"not at 08:00:00\+00:00"),
        ({"threads": -1}, "0 threads or more, not -1"),
        ({"days": frozenset({0, 7})}, r"not \[0, 7\]"),
        ({"timezone": "Europe/Olso"}, "is not a time zone"),
        ({"only": date(2026, 12, 24), "days": frozenset({3})}, "a date or weekdays, not both"),
        ({"only": date(1969, 12, 31)}, "between 1970 and 2999, not in 1969"),
        ({"only": date(3000, 1, 1)}, "between 1970 and 2999, not in 3000"),
    ],
)
def test_a_window_that_makes_no_sense_cannot_be_made(change, advice):
    facts = {"start": time(8), "end": time(18), "threads": 2, "timezone": "Europe/Oslo", "days": None}

    with pytest.raises(ValueError, match=advice):
        Window(**(facts | change))


# --- against brute force, written from the text of rules 18, 19 and 21 ---


def threads_by_hand(windows: list[Window], begin: datetime, step: timedelta, count: int) -> list[int]:
    """The threads of a server that has OWN beside its windows, at `begin` and after each of `count` steps."""
    result = [0] * (count + 1)
    walls = {
        timezone: [
            (begin + index * step).astimezone(ZoneInfo(timezone)).replace(tzinfo=None) for index in range(count + 1)
        ]
        for timezone in {window.timezone for window in windows}
    }
    for timezone, clock in walls.items():
        for each, start, end in rules.openings(windows, min(clock).date() - DAY, max(clock).date()):
            for index, wall in enumerate(clock) if each.timezone == timezone else ():
                if start <= wall < end and result[index] < each.threads:
                    result[index] = each.threads
    if all(window.only for window in windows):
        for index in range(count + 1):
            if all(walls[window.timezone][index].date() != window.only for window in windows):
                result[index] = max(result[index], OWN)
    return result


@cache
def jumps(timezone: str) -> list[datetime]:
    """The minutes of 2020 to 2037 at which the zone's clock jumps."""
    tz = ZoneInfo(timezone)

    def between(begin: datetime, end: datetime, step: timedelta) -> list[tuple[datetime, datetime]]:
        walk = [begin + index * step for index in range((end - begin) // step + 1)]
        offsets = [instant.astimezone(tz).utcoffset() for instant in walk]
        return [pair for pair, change in zip(pairwise(walk), pairwise(offsets), strict=True) if change[0] != change[1]]

    coarse = between(datetime(2020, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC), 6 * HOUR)
    return [jump for begin, end in coarse for _, jump in between(begin, end, MINUTE)]


@cache
def places(timezone: str) -> list[datetime]:
    """Where it is worth looking: every jump, and some quiet days."""
    return [*jumps(timezone), datetime(2026, 2, 28, tzinfo=UTC), datetime(2028, 12, 31, 18, tzinfo=UTC)]


def test_the_places_to_look_at_hold_every_clock_change():
    assert len(jumps("Europe/Oslo")) == len(jumps("Australia/Lord_Howe")) == 36
    assert at("2026-10-25T01:00Z") in jumps("Europe/Oslo")
    assert sum(len(jumps(timezone)) for timezone in ZONES) > 300


@pytest.mark.parametrize("timezone", ZONES)
def test_around_every_clock_change_each_minute_has_the_threads_that_the_rules_say(timezone):
    windows = [
        *article(timezone),
        window("00:00", "02:10", 21, timezone, days=["sun", "thu", "fri"]),
        window("23:20", "00:40", 22, timezone, days=["sat", "wed", "sun"]),
        window("02:30", "02:30", 1, timezone, days=["sun", "tue"]),
    ]
    minutes = 24 * 60
    for place in places(timezone):
        begin = place - 12 * HOUR
        by_hand = threads_by_hand(windows, begin, MINUTE, minutes)
        assert [threads_at(windows, 1, begin + index * MINUTE) for index in range(minutes + 1)] == by_hand

        changed = [index for index in range(1, minutes + 1) if by_hand[index] != by_hand[index - 1]]
        assert changes(windows, begin, begin + minutes * MINUTE) == [begin + index * MINUTE for index in changed]


def clocks() -> st.SearchStrategy[time]:
    """Times of day, most of them in the hours in which clocks jump."""
    hours = st.sampled_from([22, 23, 0, 1, 2, 3, 4]) | st.integers(0, 23)
    edges = st.sampled_from([0, 1, 30, 59])
    return st.builds(time, hours, edges | st.integers(0, 59), edges)


def windows_in(timezones: st.SearchStrategy[str]) -> st.SearchStrategy[Window]:
    days = st.none() | st.frozensets(st.integers(0, 6), min_size=1, max_size=6)
    return st.builds(Window, clocks(), clocks(), st.integers(0, 3), timezones, days)


def exceptions_in(timezones: st.SearchStrategy[str], near: date) -> st.SearchStrategy[Window]:
    """Windows of a date at most two days from that one, among them days off."""
    dates = st.integers(-2, 2).map(lambda shift: near + shift * DAY)
    return st.builds(Window, clocks(), clocks(), st.integers(0, 3), timezones, st.none(), dates)


@st.composite
def windows_and_instants(draw, apart: timedelta) -> tuple[list[Window], datetime]:
    """Windows, most of them of one zone, and an instant at most `apart` from a clock change there."""
    timezone = draw(st.sampled_from(ZONES))
    zones = st.just(timezone) | st.sampled_from(ZONES)
    place = draw(st.sampled_from(places(timezone)))
    dated = exceptions_in(zones, place.astimezone(ZoneInfo(timezone)).date())
    windows = draw(st.lists(windows_in(zones), max_size=3)) + draw(st.lists(dated, max_size=2))
    return windows or [draw(dated)], place + draw(st.timedeltas(-apart, apart))


@settings(deadline=None, max_examples=200)
@given(windows_and_instants(apart=2 * DAY))
def test_random_windows_hold_the_instants_that_the_rules_say(case):
    windows, instant = case

    for each in windows:
        wall = instant.astimezone(ZoneInfo(each.timezone)).replace(tzinfo=None)
        hours = rules.openings([each], wall.date() - DAY, wall.date())
        assert each.covers(instant) == any(start <= wall < end for _, start, end in hours)
    assert threads_at(windows, OWN, instant) == threads_by_hand(windows, instant, SECOND, 0)[0]


@settings(deadline=None, max_examples=40)
@given(windows_and_instants(apart=2 * HOUR))
def test_the_next_change_of_random_windows_is_the_first_second_that_differs(case):
    windows, after = case
    seconds = 75 * 60
    whole = after.replace(microsecond=0)
    by_hand = threads_by_hand(windows, whole, SECOND, seconds)

    differs = [whole + index * SECOND for index in range(1, seconds + 1) if by_hand[index] != by_hand[0]]
    opens = [max(after, whole + index * SECOND) for index in range(seconds + 1) if by_hand[index]]
    assert next_change(windows, OWN, after, seconds * SECOND) == (differs[0] if differs else None)
    assert next_opening(windows, OWN, after, seconds * SECOND) == (opens[0] if opens else None)


@settings(deadline=None, max_examples=100)
@given(windows_and_instants(apart=4 * DAY))
def test_between_one_change_of_random_windows_and_the_next_nothing_changes(case):
    windows, after = case
    present = threads_at(windows, OWN, after)

    change = next_change(windows, OWN, after)
    end = change or after + 15 * DAY
    assert {threads_at(windows, OWN, after + (end - after) * part / 97) for part in range(97)} == {present}
    if change:
        assert threads_at(windows, OWN, change) != present
        assert threads_at(windows, OWN, change - SECOND) == present or change - SECOND < after


@settings(deadline=None, max_examples=40)
@given(windows_and_instants(apart=2 * HOUR))
def test_up_to_the_next_edge_of_random_windows_no_second_differs(case):
    windows, after = case
    whole = after.replace(microsecond=0)
    edge = next_edge(windows, after)

    assert after < edge <= after + DAY
    seconds = min(75 * 60, int((edge - whole) / SECOND) - 1)
    assert set(threads_by_hand(windows, whole, SECOND, seconds)) == {threads_at(windows, OWN, after)}


@settings(deadline=None, max_examples=100)
@given(windows_and_instants(apart=4 * DAY))
def test_the_next_edge_of_random_windows_is_no_later_than_their_next_change(case):
    windows, after = case
    change = next_change(windows, OWN, after)

    assert change is None or next_edge(windows, after) <= change


def test_the_next_edge_is_when_a_window_opens_or_closes_on_any_day_and_at_most_a_day_ahead():
    sundays = [window("08:00", "18:00", timezone="UTC", days=["sun"])]
    assert next_edge(sundays, at("2026-05-05T08:00Z")) == at("2026-05-05T18:00Z")
    assert next_edge(sundays, at("2026-05-05T19:00+02:00")) == at("2026-05-05T18:00Z")
    assert next_edge([MARS], at("2026-05-05T08:00Z")) == at("2026-05-06T08:00Z")


@settings(deadline=None, max_examples=60)
@given(windows_and_instants(apart=DAY))
def test_the_periods_of_random_windows_have_no_holes_and_every_minute_its_threads(case):
    windows, begin = case
    minutes = 36 * 60
    found = list(periods(windows, OWN, begin, begin + minutes * MINUTE))

    assert [found[0].start, found[-1].end] == [begin, begin + minutes * MINUTE]
    assert all(one.end == other.start and one.threads != other.threads for one, other in pairwise(found))
    walk = [begin + index * MINUTE for index in range(minutes)]
    held = [next(each.threads for each in found if each.start <= instant < each.end) for instant in walk]
    assert held == [threads_at(windows, OWN, instant) for instant in walk]
    assert held == threads_by_hand(windows, begin, MINUTE, minutes - 1)


@settings(deadline=None, max_examples=100)
@given(st.lists(windows_in(st.just("UTC")), min_size=2, max_size=3))
@example([window("22:00", "06:00", timezone="UTC", days=["sun"]), window("05:59:59", "07:00", timezone="UTC")])
def test_random_windows_overlap_when_some_second_of_a_week_lies_in_two_of_them(windows):
    monday = date(2026, 5, 4)
    starts = [
        datetime.combine(monday + shift * DAY, each.start, UTC) for each in windows for shift in range(7)
    ]  # where two periods meet, one of them starts

    meeting = [
        (one, other)
        for one, other in combinations(windows, 2)
        if any(one.covers(instant) and other.covers(instant) for instant in starts)
    ]
    assert overlaps(windows) == meeting


@settings(deadline=None, max_examples=150)
@given(windows_and_instants(apart=DAY))
def test_windows_of_one_zone_that_do_not_overlap_are_never_open_together(case):
    windows, instant = case
    opened = [each for each in covering(windows, instant) if each.threads or not each.only]

    assert {pair for pair in combinations(opened, 2) if pair[0].timezone == pair[1].timezone} <= set(overlaps(windows))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(windows_in(st.just("UTC")), max_size=2),
    st.lists(exceptions_in(st.just("UTC"), date(2026, 12, 24)), min_size=1, max_size=3),
)
def test_dated_windows_overlap_when_a_period_of_theirs_meets_another(windows, dated):
    held = rules.openings([*windows, *dated], date(2026, 12, 18), date(2026, 12, 30))
    times = [[each for each in held if each.window is window] for window in (*windows, *dated)]

    meeting = [
        (one, other)
        for (one, ours), (other, theirs) in combinations(zip([*windows, *dated], times, strict=True), 2)
        if (one.only or other.only)
        and all(each.threads or not each.only for each in (one, other))
        and any(mine.start < its.end and its.start < mine.end for mine in ours for its in theirs)
    ]
    assert [pair for pair in overlaps([*windows, *dated]) if any(each.only for each in pair)] == meeting


@given(st.times().map(lambda value: value.replace(microsecond=0)), st.frozensets(st.integers(0, 6), min_size=1))
def test_what_is_printed_is_read_back(clock, days):
    assert parse_time(format_time(clock)) == clock
    assert parse_days(format_days(days)) == days
