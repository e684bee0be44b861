"""When a server may start how many tasks: daily windows on the wall clock of their zone (rules 16 to 21).

A dated window is an exception: on its date it takes the place of the windows that would start that day.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
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
HORIZON = timedelta(days=15)  # a weekly window comes round within it, also when a jump of the clock skips it once

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FULL_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
EVERY_DAY = frozenset(range(7))
DAY_NUMBERS = {name: number for names in (DAYS, FULL_NAMES) for number, name in enumerate(names)}

NOT_A_ZONE = {"localtime", "Factory"}  # in the database, but the machine's own zone, and none at all
YEARS = range(1970, 3000)
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
TIME = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?")

_short = Repr()
_short.maxstring = 80  # a stranger's text may be megabytes


# The zone of a window whose row nobody can read.
UNREADABLE = "row {} of batchq_window"


@dataclass(frozen=True, slots=True)
class Window:
    """A daily period in which a server has `threads` threads (rules 17, 18, 21).

    `start` (inclusive) and `end` (exclusive) are wall-clock times of whole seconds in `timezone`, an IANA
    name. `days` are the local days on which the window starts, 0 = Monday; None = every day. A dated
    window starts `only` on that local date. ValueError for anything else; but a window that was stored
    and whose zone has `vanished` from the machine's list since is one that never opens.
    """

    start: time
    end: time
    threads: int
    timezone: str
    days: frozenset[int] | None = None
    only: date | None = None
    vanished: bool = False

    def __post_init__(self) -> None:
        for edge in (self.start, self.end):
            if edge.microsecond or edge.tzinfo is not None:
                raise ValueError(f"A window starts and ends at a whole second of its own zone, not at {edge}.")
        if self.threads < 0:
            raise ValueError(f"A window has 0 threads or more, not {self.threads}.")
        if self.days is not None and not self.days <= EVERY_DAY:
            raise ValueError(f"The days of a window go from 0 (Monday) to 6, not {sorted(self.days)}.")
        if self.only is not None and self.days is not None:
            raise ValueError("A window has a date or weekdays, not both.")
        if self.only is not None and self.only.year not in YEARS:
            raise ValueError(f"The date of a window lies between {YEARS[0]} and {YEARS[-1]}, not in {self.only.year}.")
        if not self.vanished:
            zone(self.timezone)

    def __str__(self) -> str:
        """`18:00-07:30=20 Europe/Oslo`, and the days or the date in brackets."""
        days = "" if self.days is None else f" [{','.join(format_days(self.days))}]"
        date = "" if self.only is None else f" [{self.only}]"
        return f"{format_time(self.start)}-{format_time(self.end)}={self.threads} {self.timezone}{days}{date}"

    @property
    def span(self) -> str:
        """`18:00-07:30`, and the date of an exception."""
        return f"{format_time(self.start)}-{format_time(self.end)}{f' on {self.only}' if self.only else ''}"

    def covers(self, instant: datetime) -> bool:
        """Whether the aware `instant` lies in the window, exceptions left aside (rule 18)."""
        day = self.day_of(instant)
        return day is not None and self.starts_on(day)

    def starts_on(self, day: date) -> bool:
        """Whether `day` is one of the window's days; a night belongs to the day it started on (rule 21)."""
        if self.only is not None:
            return day == self.only
        return self.days is None or day.weekday() in self.days

    def day_of(self, instant: datetime) -> date | None:
        """The local day whose period, by the clock alone, holds the aware `instant`; None between periods."""
        if self.vanished:
            return None
        wall = _aware(instant).astimezone(zone(self.timezone))
        clock = wall.time()
        if self.start < self.end:
            return wall.date() if self.start <= clock < self.end else None
        if clock >= self.start:
            return wall.date()
        return wall.date() - DAY if clock < self.end else None  # the window crossed midnight


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` (inclusive) to `end` (exclusive), both UTC, a server has `threads` threads."""

    start: datetime
    end: datetime
    threads: int


def threads_at(windows: Sequence[Window], threads: int, instant: datetime) -> int:
    """How many tasks a server may run at the aware `instant` (rules 18, 19, 21).

    With windows the most that one covering the instant has, 0 in none. Without windows its own `threads`;
    that is so too where all windows are dated, on all other days in their zones.
    """
    if not windows:
        return threads
    most = max((window.threads for window in covering(windows, instant)), default=0)
    if _only_dated(windows) and not any(_today(window, instant) == window.only for window in windows):
        return max(most, threads)
    return most


def covering(windows: Sequence[Window], instant: datetime) -> list[Window]:
    """The windows that hold the aware `instant`; an exception silences the others that start on its date (rule 21)."""
    excepted = {window.only for window in windows if window.only is not None}
    return [
        window
        for window in windows
        if (day := window.day_of(instant)) is not None
        and window.starts_on(day)
        and (window.only is not None or day not in excepted)
    ]


def periods(windows: Sequence[Window], threads: int, begin: datetime, end: datetime) -> Iterator[Period]:
    """The time from `begin` to `end`, both aware, without holes: a period for each number of threads; gaps have 0."""
    begin, end = _aware(begin).astimezone(UTC), _aware(end).astimezone(UTC)
    while begin < end:
        present = threads_at(windows, threads, begin)
        stop = next_change(windows, threads, begin, end - begin) or end
        yield Period(begin, stop, present)
        begin = stop


def next_change(
    windows: Sequence[Window], threads: int, after: datetime, horizon: timedelta | None = None
) -> datetime | None:
    """The first instant later than `after` at which `threads_at` differs from its value at `after`.

    In UTC and exact to the second; None if nothing differs up to and including `after` + `horizon`. Without a
    horizon it looks at the next two weeks, and as far about each exception to come.
    """
    begin = _aware(after).astimezone(UTC)
    present = threads_at(windows, threads, begin)
    stretches = _stretches(windows, begin) if horizon is None else [(begin, begin + horizon)]
    for start, end in stretches:
        for moment in _moments(windows, start, end):
            if threads_at(windows, threads, moment) != present:
                return moment
    return None


def next_edge(windows: Sequence[Window], after: datetime) -> datetime:
    """An instant, in UTC and at most a day later than `after`, up to which `threads_at` stays as it is at `after`.

    Something may change there or not: unlike `next_change`, it looks no further.
    """
    begin = _aware(after).astimezone(UTC).replace(microsecond=0)
    return next(_moments(windows, begin, begin + DAY), begin + DAY)


def next_opening(
    windows: Sequence[Window], threads: int, after: datetime, horizon: timedelta | None = None
) -> datetime | None:
    """The first instant, in UTC, at or later than `after` with a thread; None up to `after` + `horizon`."""
    if threads_at(windows, threads, after) > 0:
        return _aware(after).astimezone(UTC)
    return next_change(windows, threads, after, horizon)


def overlaps(windows: Sequence[Window]) -> list[tuple[Window, Window]]:
    """The pairs of windows of one zone whose periods meet on the wall clock (rules 18, 21).

    Daily windows are compared on the circle of a week, dated ones on their own days. A date with no threads
    meets nothing: the night that began before it goes on.
    """
    excepted = {window.only for window in windows if window.only is not None}
    return [
        (one, other)
        for one, other in combinations(windows, 2)
        if one.timezone == other.timezone
        and (_meet(one, other) if one.only is other.only is None else _meet_on_dates(one, other, excepted))
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


def parse_date(text: str) -> date:
    """The date that `YYYY-MM-DD` says; ValueError for anything else."""
    try:
        if isinstance(text, str) and DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f'{_short.repr(text)} is not a date. Write it as text, "YYYY-MM-DD", such as "2026-12-24".')


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


def is_zone(name: str) -> bool:
    """Whether the machine knows a time zone of this IANA name."""
    return name in _zone_names()


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


def _only_dated(windows: Sequence[Window]) -> bool:
    return all(window.only is not None for window in windows)


def _today(window: Window, instant: datetime) -> date | None:
    return None if window.vanished else instant.astimezone(zone(window.timezone)).date()


def _stretches(windows: Sequence[Window], begin: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Where to look for a change: until every weekly window came round, and again about each later exception."""
    end = begin + HORIZON
    yield begin, end
    for day in sorted({window.only for window in windows if window.only is not None}):
        noon = datetime.combine(day, time(12), UTC)
        start, stop = noon - 2 * DAY, noon + 2 * DAY + HORIZON  # no zone is more than a day away from UTC
        if stop > end:
            yield max(start, end), stop
            end = stop


def _moments(windows: Sequence[Window], begin: datetime, end: datetime) -> Iterator[datetime]:
    """In order, every instant after `begin` up to `end`, both UTC, at which a window may open or close."""
    clocks: defaultdict[str, set[time]] = defaultdict(set)
    midnights = {time()} if _only_dated(windows) else set()
    for window in windows:
        if not window.vanished:
            clocks[window.timezone] |= {window.start, window.end, *midnights}
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


def _meet_on_dates(one: Window, other: Window, excepted: Collection[date]) -> bool:
    """Whether two windows meet, at least one of which is dated."""
    dated, second = (one, other) if one.only is not None else (other, one)
    assert dated.only is not None
    if not dated.threads or (second.only is not None and not second.threads):
        return False
    begin = datetime.combine(dated.only, dated.start)
    for day in (dated.only - DAY, dated.only, dated.only + DAY):
        if second.starts_on(day) and (second.only is not None or day not in excepted):
            there = datetime.combine(day, second.start)
            if begin < there + SECOND * _length(second) and there < begin + SECOND * _length(dated):
                return True
    return False


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
