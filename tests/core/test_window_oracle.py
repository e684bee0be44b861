"""Windows against brute force, minute by minute, around every clock change from 2020 to 2037 (rules 18, 19, 21).

Fourteen zones are part of every run of the tests, and all sixty of the slow ones. Every IANA zone, which takes minutes:
`pytest -m "long or not long" tests/core/test_window_oracle.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest

from batchq.core.windows import Window, next_change, parse_time, periods, threads_at
from support import rules

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=seconds) for seconds in (1, 60, 3600, 86400))
BEGIN, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)
QUIET = datetime(2026, 2, 11, 9, tzinfo=UTC)  # where no clock changes, also of zones that have none at all
OWN = 4  # threads of the server beside its windows

# Every continent, half-hour and two-hour jumps, jumps at midnight, winter time as the exception, months of fasting,
# zones that gave up summer time or took it up again, and those that moved for good.
ZONES = [
    "Africa/Cairo", "Africa/Casablanca", "Africa/El_Aaiun", "Africa/Johannesburg", "Africa/Juba",
    "America/Adak", "America/Asuncion", "America/Bahia_Banderas", "America/Chicago", "America/Chihuahua",
    "America/Ciudad_Juarez", "America/Coyhaique", "America/Dawson", "America/Halifax", "America/Havana",
    "America/Los_Angeles", "America/Merida", "America/Mexico_City", "America/Miquelon", "America/New_York",
    "America/Nuuk", "America/Port-au-Prince", "America/Santiago", "America/Sao_Paulo", "America/Scoresbysund",
    "America/St_Johns", "America/Whitehorse", "Antarctica/Casey", "Antarctica/Macquarie", "Antarctica/Troll",
    "Antarctica/Vostok", "Asia/Almaty", "Asia/Amman", "Asia/Beirut", "Asia/Damascus", "Asia/Gaza",
    "Asia/Hebron", "Asia/Jerusalem", "Asia/Kathmandu", "Asia/Nicosia", "Asia/Qostanay", "Asia/Tehran",
    "Atlantic/Azores", "Australia/Adelaide", "Australia/Lord_Howe", "Australia/Sydney", "Europe/Chisinau",
    "Europe/Dublin", "Europe/Kyiv", "Europe/Lisbon", "Europe/London", "Europe/Oslo", "Europe/Volgograd",
    "Pacific/Apia", "Pacific/Auckland", "Pacific/Chatham", "Pacific/Easter", "Pacific/Fiji", "Pacific/Norfolk",
    "UTC",
]  # fmt: skip
# One or two of each kind.
ALWAYS = [
    "Africa/Casablanca", "America/Havana", "America/Sao_Paulo", "Antarctica/Casey", "Antarctica/Troll", "Asia/Gaza",
    "Asia/Kathmandu", "Asia/Tehran", "Australia/Lord_Howe", "Europe/Dublin", "Europe/Oslo", "Pacific/Apia",
    "Pacific/Chatham", "UTC",
]  # fmt: skip
OTHERS = sorted(available_timezones() - {*ZONES, "localtime", "Factory"})


# --- where clocks change ------------------------------------------------------------------------------------


@cache
def changes(tz: ZoneInfo) -> list[datetime]:
    """Every minute of 2020 to 2037 at which the zone's distance from UTC is another than before."""
    coarse = _changed(tz, BEGIN, END, 6 * HOUR)
    return [minute for instant in coarse for minute in _changed(tz, instant - 6 * HOUR, instant, MINUTE)]


def _changed(tz: ZoneInfo, begin: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    walk = [begin + number * step for number in range((end - begin) // step + 1)]
    offsets = [instant.astimezone(tz).utcoffset() for instant in walk]
    return (after for after, (one, other) in zip(walk[1:], pairwise(offsets), strict=True) if one != other)


# --- windows to try -----------------------------------------------------------------------------------------


def plans(timezone: str, low: datetime, high: datetime) -> dict[str, list[Window]]:
    """What servers' windows may be, where a wall clock skips, or shows twice, what lies between `low` and `high`."""
    day, middle = high.date(), low + (high - low) / 2

    def window(start: str | datetime, end: str | datetime, threads: int, **when: object) -> Window:
        clocks = (parse_time(clock) if isinstance(clock, str) else clock.time() for clock in (start, end))
        return Window(*clocks, threads, timezone, **when)

    def on(day: date, start: str, end: str, threads: int) -> Window:
        return window(start, end, threads, only=day)

    article = [window("08:00", "18:00", 2), window("18:00", "07:30", 20)]
    return {
        "the article's": article,
        "nights of the week, 24 hours from saturday, sunday's rest": [
            window("22:00", "06:00", 5, days=frozenset(range(5))),
            window("06:00", "06:00", 3, days=frozenset({5})),
            window("06:00", "21:15", 8, days=frozenset({6})),
        ],
        "edges in the hour that jumps": [
            window(low - HOUR, low, 1),
            window(low, middle, 2),
            window(middle, high, 3),
            window(high, high + HOUR, 4),
        ],
        "exceptions on that day, a day off after it": [
            *article,
            on(day, "02:30", "05:00", 7),
            on(day, "21:00", "01:30", 9),
            on(day + DAY, "00:00", "00:00", 0),
        ],
        "that day off": [*article, on(day, "00:00", "00:00", 0)],
        "no windows but an exception": [on(day, "02:30", "02:30", 7)],
    }


# --- brute force --------------------------------------------------------------------------------------------


class Around:
    """The minutes of three local days, that before a change of the clock, its own, and that after it."""

    def __init__(self, tz: ZoneInfo, change: datetime) -> None:
        self.change = change
        sides = [_wall(change - MINUTE, tz) + MINUTE, _wall(change, tz)]
        self.low, self.high = min(sides), max(sides)
        self.first, self.last = self.low.date() - DAY, self.high.date() + DAY
        self.begin = datetime.combine(self.first, time(), tz).astimezone(UTC)
        self.end = datetime.combine(self.last + DAY, time(), tz).astimezone(UTC)
        start = (self.begin - datetime.combine(self.first, time(), UTC)) // MINUTE
        self.walls = [start + minute + offset for minute, offset in enumerate(self._offsets(tz))]

    def _offsets(self, tz: ZoneInfo) -> list[int]:
        """The minutes from UTC in each minute from `begin` to `end`; an hour without a change takes one look."""

        def offset(minute: int) -> int:
            there = (self.begin + minute * MINUTE).astimezone(tz).utcoffset()
            assert there is not None
            return there // MINUTE

        found: list[int] = []
        minutes = (self.end - self.begin) // MINUTE
        for hour in range(0, minutes, 60):
            first, last = offset(hour), offset(hour + 60)
            found += [first] * 60 if first == last else map(offset, range(hour, hour + 60))
        return found[:minutes]

    def threads(self, windows: list[Window]) -> bytes:
        """How many threads there are in each minute from `begin` to `end`."""
        wall = rules.wall_minutes(windows, OWN, self.first, self.last)
        return bytes(map(wall.__getitem__, self.walls))


def _wall(instant: datetime, tz: ZoneInfo) -> datetime:
    local = instant.astimezone(tz)
    return local.replace(tzinfo=None)


# --- no difference ------------------------------------------------------------------------------------------


def check_zone(timezone: str) -> None:
    tz = ZoneInfo(timezone)
    for change in (*changes(tz), QUIET):
        around = Around(tz, change)
        for name, windows in plans(timezone, around.low, around.high).items():
            where = f"{name}, {timezone} at {change}"
            by_hand = around.threads(windows)
            edges = check_periods(windows, around, by_hand, where)
            check_instants(windows, around, by_hand, edges, where)


def check_periods(windows: list[Window], around: Around, by_hand: bytes, where: str) -> list[datetime]:
    """`periods` and `next_change` know every minute; returns the instants at which one period follows another."""
    found = list(periods(windows, OWN, around.begin, around.end))
    assert all(not (period.end - period.start) % MINUTE for period in found), where
    assert b"".join(bytes([each.threads]) * ((each.end - each.start) // MINUTE) for each in found) == by_hand, where
    assert all(one.end == other.start and one.threads != other.threads for one, other in pairwise(found)), where
    for after in (around.change - HOUR / 2, around.change):
        expected = next((period.end for period in found[:-1] if period.start <= after < period.end), None)
        change = next_change(windows, OWN, after)
        assert change == expected or (expected is None and (change is None or change >= around.end)), where
    return [period.start for period in found[1:]]


def check_instants(windows: list[Window], around: Around, by_hand: bytes, edges: list[datetime], where: str) -> None:
    """`threads_at` each minute near the change, and in the last and first second of each period."""
    middle, near = (around.change - around.begin) // MINUTE, (around.high - around.low) // MINUTE + 5
    minutes = range(middle - near, middle + near)
    seen = bytes(threads_at(windows, OWN, around.begin + minute * MINUTE) for minute in minutes)
    assert seen == by_hand[minutes.start : minutes.stop], where
    for edge in edges:
        minute = (edge - around.begin) // MINUTE
        seen = bytes(threads_at(windows, OWN, instant) for instant in (edge - SECOND, edge))
        assert seen == by_hand[minute - 1 : minute + 1], where


@pytest.mark.parametrize("timezone", ALWAYS)
def test_no_minute_around_any_clock_change_differs_from_brute_force(timezone):
    check_zone(timezone)


@pytest.mark.slow
@pytest.mark.parametrize("timezone", [zone for zone in ZONES if zone not in ALWAYS])
def test_no_minute_in_any_of_the_sixty_zones_differs_from_brute_force(timezone):
    check_zone(timezone)


@pytest.mark.long
@pytest.mark.parametrize("timezone", OTHERS)
def test_no_minute_in_any_other_zone_differs_from_brute_force(timezone):
    check_zone(timezone)


def test_the_zones_that_are_always_played_hold_hundreds_of_clock_changes():
    found = {timezone: changes(ZoneInfo(timezone)) for timezone in ALWAYS}
    assert found.keys() <= {*ZONES}
    assert sum(map(len, found.values())) > 250
    assert len(found["Europe/Oslo"]) == 36
    assert not found["UTC"]


@pytest.mark.slow
def test_the_sixty_zones_hold_every_kind_of_clock_change():
    found = {timezone: changes(ZoneInfo(timezone)) for timezone in ZONES}
    assert len(found) == 60
    assert sum(map(len, found.values())) > 1400
