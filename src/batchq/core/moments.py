"""Times as people type them: a duration, or a time of day on the clock of a zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

from batchq.core.windows import DAY, zone

DURATION = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,9})?)([smhdw]?)")
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
LONGEST = 10_000 * DAY


def is_duration(text: str) -> bool:
    """Whether the text has the form of a duration: at most seven digits, and a unit or none."""
    return DURATION.fullmatch(text) is not None


def parse_duration(text: str) -> timedelta:
    """Read a duration: seconds, or a number with `s m h d w`, as `90`, `5m`, `1.5h`, `30d`; else ValueError."""
    match = DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is no duration. Write seconds, 90, or a number with a unit: 5m, 1.5h, 30d.")
    number, unit = match.groups()
    seconds = float(number) * UNITS[unit]
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"{text!r} is too long. The longest duration is {LONGEST.days}d.")
    return timedelta(seconds=seconds)


def last_time(clock: time, zone_name: str, now: datetime) -> datetime:
    """The last instant, in UTC and at most `now`, at which the zone's clock came to this time of day.

    A time that does not exist on a day moves forward by the gap. One that comes twice counts once, the first time.
    """
    tz = zone(zone_name)
    today = now.astimezone(tz).date()
    # A gap moves a time of yesterday past midnight, perhaps past `now`; then that of the day before is the last.
    days = [today - back * DAY for back in range(3)]
    # With fold=0 Python takes the offset before a jump: in a gap that is later by the gap, in a fold the first pass.
    instants = [datetime.combine(day, clock, tz).astimezone(UTC) for day in days]
    return max(instant for instant in instants if instant <= now)
