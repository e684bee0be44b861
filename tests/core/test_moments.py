"""Times as people type them, through every kind of jump of a clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchq.core.moments import is_duration, last_time, parse_duration
from batchq.core.windows import parse_time

DURATIONS = [
    ("90", 90), ("0", 0), ("0.5", 0.5), ("45s", 45), ("5m", 300), ("1.5h", 5400), ("30d", 2_592_000), ("2w", 1_209_600),
]  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), DURATIONS)
def test_a_duration_is_seconds_or_a_number_with_a_unit(text, seconds):
    assert is_duration(text)
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "m", "5 m", "-5m", "5M", "1h30m", "5min", "1e3", "٥", ".5h", "5.", "20261224", "5m\n"]
)
def test_anything_else_is_no_duration(text):
    assert not is_duration(text)
    with pytest.raises(
        ValueError, match=r"is no duration\. Write seconds, 90, or a number with a unit: 5m, 1\.5h, 30d"
    ):
        parse_duration(text)


def test_a_duration_that_leads_out_of_the_calendar_is_refused():
    with pytest.raises(ValueError, match="'9999999w' is too long"):
        parse_duration("9999999w")


# The time of day, the zone, the instants at which somebody asks, each with the last such time.
LAST = [
    ("18:00", "Europe/Oslo", "2027-01-10T17:30Z", "2027-01-10T17:00Z", "today"),
    ("18:00", "Europe/Oslo", "2027-01-10T16:59Z", "2027-01-09T17:00Z", "yesterday"),
    ("18:00", "Europe/Oslo", "2027-01-10T17:00Z", "2027-01-10T17:00Z", "this very instant"),
    ("18:00:30", "Asia/Tokyo", "2027-01-10T09:00:29Z", "2027-01-09T09:00:30Z", "with seconds"),
    ("02:30", "Europe/Oslo", "2027-03-28T01:10Z", "2027-03-27T01:30Z", "it is 03:10, and the moved 02:30 is to come"),
    ("02:30", "Europe/Oslo", "2027-03-28T01:30Z", "2027-03-28T01:30Z", "moved forward by the gap"),
    ("02:30", "Europe/Oslo", "2027-03-29T00:10Z", "2027-03-28T01:30Z", "that of the day of the gap"),
    ("02:30", "Europe/Oslo", "2027-10-31T00:20Z", "2027-10-30T00:30Z", "before the first pass"),
    ("02:30", "Europe/Oslo", "2027-10-31T00:40Z", "2027-10-31T00:30Z", "after the first pass"),
    ("02:30", "Europe/Oslo", "2027-10-31T01:20Z", "2027-10-31T00:30Z", "02:20 for the second time"),
    ("02:30", "Europe/Oslo", "2027-10-31T01:40Z", "2027-10-31T00:30Z", "the second pass is none"),
    ("00:00", "America/Havana", "2027-03-14T04:59Z", "2027-03-13T05:00Z", "before a gap at midnight"),
    ("00:00", "America/Havana", "2027-03-14T05:10Z", "2027-03-14T05:00Z", "a gap at midnight"),
    ("23:45", "America/Nuuk", "2026-03-29T01:20Z", "2026-03-28T01:45Z", "yesterday's moved past midnight and past now"),
    ("23:45", "America/Nuuk", "2026-03-29T01:50Z", "2026-03-29T01:45Z", "moved to the next date"),
    ("02:15", "Australia/Lord_Howe", "2027-10-02T15:40Z", "2027-10-01T15:45Z", "before a gap of 30 min"),
    ("02:15", "Australia/Lord_Howe", "2027-10-02T15:50Z", "2027-10-02T15:45Z", "a gap of 30 min"),
    ("01:45", "Australia/Lord_Howe", "2027-04-03T15:20Z", "2027-04-03T14:45Z", "a fold of 30 min"),
    ("01:30", "Antarctica/Troll", "2027-03-28T01:20Z", "2027-03-27T01:30Z", "before a gap of 2 h"),
    ("01:30", "Antarctica/Troll", "2027-03-28T01:40Z", "2027-03-28T01:30Z", "a gap of 2 h"),
    ("12:00", "Pacific/Apia", "2011-12-30T21:00Z", "2011-12-29T22:00Z", "the day before is lost"),
    ("12:00", "Pacific/Apia", "2011-12-30T23:00Z", "2011-12-30T22:00Z", "after a lost day"),
]  # fmt: skip


@pytest.mark.parametrize(("clock", "place", "now", "last"), [row[:4] for row in LAST], ids=[row[4] for row in LAST])
def test_the_last_such_time_of_day_is_found_through_every_jump_of_the_clock(clock, place, now, last):
    assert last_time(parse_time(clock), place, datetime.fromisoformat(now)) == datetime.fromisoformat(last)


ZONES = [
    "Europe/Oslo",
    "America/Nuuk",
    "America/Havana",
    "Australia/Lord_Howe",
    "Antarctica/Troll",
    "Pacific/Apia",
    "UTC",
]
INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))


@given(clock=st.times().map(lambda it: it.replace(microsecond=0)), place=st.sampled_from(ZONES), now=INSTANTS)
def test_the_last_such_time_is_over_and_at_most_two_days_ago(clock, place, now):
    last = last_time(clock, place, now)
    assert last <= now < last + timedelta(days=2, hours=3)
