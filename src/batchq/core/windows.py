"""When a server may start how many tasks: daily windows on the wall clock of their zone (rules 16 to 21)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from functools import cache
from itertools import combinations
from reprlib import Repr
from zoneinfo import ZoneInfo, available_timezones

from batchq.errors import closest

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
DAY_SECONDS = 24 * 3600
WEEK_SECONDS = 7 * DAY_SECONDS
HORIZON = timedelta(days=8)  # a weekly window comes round within it, also when the clocks go back

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FULL_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
EVERY_DAY = frozenset(range(7))
DAY_NUMBERS = {name: number for names in (DAYS, FULL_NAMES) for number, name in enumerate(names)}

NOT_A_ZONE = {"localtime", "Factory"}  # in the database, but the machine's own zone, and none at all
TIME = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?")

_short = Repr()
_short.maxstring = 80  # what a stranger typed may be megabytes


@dataclass(frozen=True, slots=True)
class Window:
    """A daily period in which a server has `threads` threads (rules 17, 18, 21).

    `start` (inclusive) and `end` (exclusive) are wall-clock times of whole seconds in `timezone`, an IANA
    name. `days` are the local days on which the window starts, 0 = Monday; None = every day. ValueError
    for anything else.
    """

    start: time
    end: time
    threads: int
    timezone: str
    days: frozenset[int] | None = None

    def __post_init__(self) -> None:
        for edge in (self.start, self.end):
            if edge.microsecond or edge.tzinfo is not None:
                raise ValueError(f"A window starts and ends at a whole second of its own zone, not at {edge}.")
        if self.threads < 0:
            raise ValueError(f"A window has 0 threads or more, not {self.threads}.")
        if self.days is not None and not self.days <= EVERY_DAY:
            raise ValueError(f"The days of a window go from 0 (Monday) to 6, not {sorted(self.days)}.")
        zone(self.timezone)

    def covers(self, instant: datetime) -> bool:
        """Whether the aware `instant` lies in the window (rule 18)."""
        day = self.day_of(instant)
        return day is not None and self.starts_on(day)

    def starts_on(self, day: date) -> bool:
        """Whether `day` is one of the window's days; a night belongs to the day it started on (rule 21)."""
        return self.days is None or day.weekday() in self.days

    def day_of(self, instant: datetime) -> date | None:
        """The local day whose period, by the clock alone, holds the aware `instant`; None between periods."""
        wall = _aware(instant).astimezone(zone(self.timezone))
        clock = wall.time()
        if self.start < self.end:
            return wall.date() if self.start <= clock < self.end else None
        if clock >= self.start:
            return wall.date()
        return wall.date() - DAY if clock < self.end else None  # the window crossed midnight


def threads_at(windows: Sequence[Window], threads: int, instant: datetime) -> int:
    """How many tasks a server may run at the aware `instant` (rules 18, 19).

    Without windows its own `threads`; with windows the most that one covering the instant has, 0 in none.
    """
    if not windows:
        return threads
    return max((window.threads for window in windows if window.covers(instant)), default=0)


def next_change(
    windows: Sequence[Window], threads: int, after: datetime, horizon: timedelta = HORIZON
) -> datetime | None:
    """The first instant later than `after` at which `threads_at` differs from its value at `after`.

    In UTC and exact to the second; None if nothing differs up to and including `after` + `horizon`.
    """
    begin = _aware(after).astimezone(UTC)
    present = threads_at(windows, threads, begin)
    for moment in _moments(windows, begin, begin + horizon):
        if threads_at(windows, threads, moment) != present:
            return moment
    return None


def next_opening(
    windows: Sequence[Window], threads: int, after: datetime, horizon: timedelta = HORIZON
) -> datetime | None:
    """The first instant, in UTC, at or later than `after` with a thread; None up to `after` + `horizon`."""
    if threads_at(windows, threads, after) > 0:
        return _aware(after).astimezone(UTC)
    return next_change(windows, threads, after, horizon)


def overlaps(windows: Sequence[Window]) -> list[tuple[Window, Window]]:
    """The pairs of windows of one zone whose periods meet on the wall clock of a week (rules 18, 21)."""
    return [
        (one, other) for one, other in combinations(windows, 2) if one.timezone == other.timezone and _meet(one, other)
    ]


def parse_time(text: str) -> time:
    """The time of day that `HH:MM` or `HH:MM:SS` says; ValueError for anything else (rule 17)."""
    match = TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{_short.repr(text)} is not a time of day. "
            'Write it as text, "HH:MM" or "HH:MM:SS", such as "08:00" or "18:00:30".'
        )
    hour, minute, second = (int(part or 0) for part in match.groups())
    if (hour, minute, second) == (24, 0, 0):
        raise ValueError(f'{text!r} is not a time of day. Write midnight as "00:00", also as an end.')
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"{text!r} is not a time of day. Hours go from 00 to 23, minutes and seconds from 00 to 59.")
    return time(hour, minute, second)


def format_time(value: time) -> str:
    """`HH:MM`, or `HH:MM:SS` where there are seconds; `parse_time` reads it back."""
    return value.isoformat("seconds" if value.second else "minutes")


def parse_days(names: Iterable[str]) -> frozenset[int]:
    """The weekdays, 0 = Monday, named `mon` to `sun` or in full, in any case; else ValueError (rule 21)."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ValueError(f"{_short.repr(names)} is not a list of days. Write a list, such as [mon, tue].")
    days = frozenset(_day_number(name) for name in names)
    if not days:
        raise ValueError("A window without days never opens. Name a day, or leave the days out for every day.")
    return days


def format_days(days: Iterable[int]) -> list[str]:
    """The short names of the weekdays in the order of the week; `parse_days` reads them back."""
    return [DAYS[day] for day in sorted(days)]


@cache
def zone(name: str) -> ZoneInfo:
    """The time zone with this IANA name; ValueError with the closest names for any other (rule 17).

    Only listed names are opened, so neither a path nor the machine's own zone gets through.
    """
    if name not in _zone_names():
        raise ValueError(
            f"{_short.repr(name)} is not a time zone{_closest_zones(str(name))}. "
            "Use an IANA name, such as 'Europe/Oslo' or 'UTC'."
        )
    return ZoneInfo(name)


def _aware(instant: datetime) -> datetime:
    if instant.tzinfo is None:  # it would silently be read in the machine's own zone
        raise ValueError(f"The instant {instant} has no time zone. Give an aware one, such as in UTC.")
    return instant


def _moments(windows: Sequence[Window], begin: datetime, end: datetime) -> Iterator[datetime]:
    """In order, every instant after `begin` up to `end`, both UTC, at which a window may open or close."""
    clocks: defaultdict[str, set[time]] = defaultdict(set)
    for window in windows:
        clocks[window.timezone] |= {window.start, window.end}
    begin, end = begin.replace(microsecond=0), end.replace(microsecond=0)
    while begin < end:
        stop = min(begin + DAY, end)
        found = {moment for name in clocks for moment in _edges(zone(name), clocks[name], begin, stop)}
        yield from sorted(moment for moment in found if begin < moment <= stop)
        begin = stop


def _edges(tz: ZoneInfo, clocks: set[time], begin: datetime, end: datetime) -> Iterator[datetime]:
    """When the zone's clock shows one of `clocks`, and when it jumps, between two instants of at most a day.

    Between jumps it runs with UTC, so nothing else can matter. A few instants are outside, or idle: harmless.
    No zone ever jumped there and back within a day: where both ends agree, so does all between them.
    """
    first, last = begin.astimezone(tz), end.astimezone(tz)
    offset = first.replace(tzinfo=UTC) - begin
    if offset == last.replace(tzinfo=UTC) - end:
        for day in {first.date(), last.date()}:
            for clock in clocks:
                yield datetime.combine(day, clock, UTC) - offset
    elif end - begin > SECOND:
        middle = (begin + (end - begin) / 2).replace(microsecond=0)
        yield from _edges(tz, clocks, begin, middle)
        yield from _edges(tz, clocks, middle, end)
    else:
        yield end


def _meet(one: Window, other: Window) -> bool:
    """Whether a period of one window starts within a period of the other, the week being a circle."""
    length, other_length = _length(one), _length(other)
    return any(
        (theirs - ours) % WEEK_SECONDS < length or (ours - theirs) % WEEK_SECONDS < other_length
        for ours in _starts(one)
        for theirs in _starts(other)
    )


def _starts(window: Window) -> list[int]:
    """The window's starts in a week, in seconds from Monday 00:00."""
    days = EVERY_DAY if window.days is None else window.days
    return [day * DAY_SECONDS + _seconds(window.start) for day in days]


def _length(window: Window) -> int:
    """How many seconds the window lasts on the wall clock: at least 1, at most 24 hours."""
    return (_seconds(window.end) - _seconds(window.start)) % DAY_SECONDS or DAY_SECONDS


def _seconds(clock: time) -> int:
    """Seconds since midnight."""
    return clock.hour * 3600 + clock.minute * 60 + clock.second


def _day_number(name: str) -> int:
    number = DAY_NUMBERS.get(name.casefold()) if isinstance(name, str) else None
    if number is None:
        raise ValueError(
            f"{_short.repr(name)} is not a day{closest(str(name)[:80], DAY_NUMBERS)}. Use {', '.join(DAYS)}."
        )
    return number


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones() - NOT_A_ZONE)


def _closest_zones(name: str) -> str:
    """A clause with the zones whose name, or whose place alone, is most like `name`; empty if none is."""
    listed = sorted(_zone_names())
    known = {name.rpartition("/")[2].casefold(): name for name in listed}
    known |= {name.casefold(): name for name in listed}
    matches = get_close_matches(name[:80].casefold().replace(" ", "_"), known, cutoff=0.7)
    names = dict.fromkeys(known[match] for match in matches)
    return f" (closest: {', '.join(map(repr, names))})" if names else ""
