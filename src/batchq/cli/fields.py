"""Readers of the text that commands take: times, days, zones, windows, instants."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import click

from batchq import clock
from batchq.cli.context import timezone
from batchq.core.limits import MOST_UNITS
from batchq.core.moments import is_duration, last_time, parse_duration
from batchq.core.windows import DAYS, YEARS, Window, parse_date, parse_days, parse_time, zone

TEXT = re.compile(r"\s*([\d:]+)\s*-\s*([\d:]+)\s*=\s*(-?\d{1,9})(?:\s+([^\s\[\]]+))?\s*(?:\[([^\[\]]*)\])?\s*")
FORM = '"18:00-07:30=20 Europe/Oslo [mon-fri]"'
CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?")
# How a help text names the forms of SINCE.
TIMES = "18:00, 5m, 1.5h or 30d ago, or an instant"
LONGEST_HOURS = 24 * 400
LONGEST_SECONDS = 366 * 24 * 3600


class Read(click.ParamType):  # type: ignore[type-arg]  # a subscript is refused at run time before click 8.4
    """A parameter that `read` turns from text into a value; a ValueError becomes a usage error."""

    def __init__(self, name: str, read: Callable[[str], object]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """The value of the text."""
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_window(text: str) -> Window:
    """Read a window, `18:00-07:30=20 Europe/Oslo [mon-fri]`: from, to, threads, zone, days or a date.

    Without a zone it is in the user's. ValueError for anything else.
    """
    match = TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is no window. Write it as {FORM}; zone and days, or a date, may be left out.")
    start, end, threads, named, when = match.groups()
    dated = when is not None and when.strip()[:1].isdigit()
    days = parse_day_list(when) if when is not None and not dated else None
    only = parse_day(when.strip()) if dated else None
    return Window(parse_time(start), parse_time(end), int(threads), named or users_zone(), days, only)


def parse_day_list(text: str) -> frozenset[int]:
    """Read weekdays, `mon,tue` or `mon-fri`, as numbers from 0 = Monday; ValueError for anything else."""
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        (begin,) = parse_days([first.strip()])
        (end,) = parse_days([last.strip()]) if dash else (begin,)
        days |= {(begin + more) % len(DAYS) for more in range((end - begin) % len(DAYS) + 1)}
    return frozenset(days)


def parse_day(text: str) -> date:
    """Read the date of a window, `YYYY-MM-DD`; ValueError for anything else."""
    day = parse_date(text)
    if day.year not in YEARS:
        raise ValueError(f"{text!r} is too far away. The date of a window lies between {YEARS[0]} and {YEARS[-1]}.")
    return day


def parse_instant(text: str, zone_name: str | None = None) -> datetime:
    """Read an instant, ISO 8601, as UTC; without an offset it is local time in that zone, or else in the user's."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.year not in YEARS[1:-1]:
        raise ValueError(
            f"{text[:80]!r} is not an instant. Write it as 2026-12-24T18:00, in your time zone, "
            "or with an offset, as 2026-12-24T18:00+01:00."
        )
    return (instant if instant.tzinfo else instant.replace(tzinfo=zone(zone_name or users_zone()))).astimezone(UTC)


def parse_since(text: str, now: datetime | None = None, zone_name: str | None = None) -> datetime:
    """Read when a stretch of time began that lasts until now, as UTC; ValueError for a time to come, or for no time.

    The text is a duration, a time of day (the last such one), or an instant; the zone is as in `parse_instant`.
    """
    now = now or clock.now()
    if is_duration(text):
        return now - parse_duration(text)
    if CLOCK.fullmatch(text):
        return last_time(parse_time(text), zone_name or users_zone(), now)
    try:
        begin = parse_instant(text, zone_name)
    except ValueError as error:
        raise ValueError(
            f"{text[:80]!r} is no time. Write a time of day, 18:00; a duration back from now, 90, 5m, 1.5h or 30d; "
            "or an instant, 2026-12-24T18:00."
        ) from error
    if begin > now:
        raise ValueError(f"{text!r} has not come yet. It must lie before now.")
    return begin


def parse_hours(text: str) -> timedelta:
    """Read a number of hours; ValueError unless it is a length of time."""
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= LONGEST_HOURS:
        raise ValueError(f"{text[:80]!r} is not a number of hours. It is more than 0, and at most {LONGEST_HOURS}.")
    return max(timedelta(hours=hours), timedelta(seconds=1))


def parse_seconds(text: str) -> float:
    """Read a number of seconds, 0 or more; ValueError unless it is a length of time."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"{text[:80]!r} is not a number of seconds. It is 0 or more, and at most {LONGEST_SECONDS:,}.")
    return seconds


def parse_units(text: str) -> int | Literal["none"]:
    """Read a number of tasks at once, or `none`; ValueError for anything else."""
    if text.casefold() == "none":
        return "none"
    if text.isascii() and text.isdigit() and int(text[:20]) <= MOST_UNITS:
        return int(text)
    raise ValueError(f"{text[:80]!r} is neither a number up to {MOST_UNITS:,} nor `none`.")


def parse_name(text: str) -> str:
    """Read the name for something new; ValueError for a text that cannot be one."""
    from batchq.spec.fields import name_fault  # it takes pydantic along, which no `--help` should wait for

    if fault := name_fault(text):
        raise ValueError(f"{fault}.")
    return text


def parse_server(text: str) -> tuple[str, int | None]:
    """Read a server, `NAME` or `NAME=THREADS`; ValueError for anything else."""
    name, equals, number = text.partition("=")
    if equals and not (number.isascii() and number.isdigit()):
        raise ValueError(f"{text[:80]!r} is no server. Write it as NAME or NAME=THREADS, threads being 0 or more.")
    return parse_name(name), int(number[:9]) if equals else None


def parse_address(text: str) -> str:
    """Check an address, `HOST:PORT`, and return it; ValueError for anything else."""
    host, _, port = text.rpartition(":")
    if not (host.isascii() and host.isprintable() and host and port.isascii() and port.isdigit()):
        raise ValueError(f"{text[:80]!r} is no address. Write it as HOST:PORT, such as 127.0.0.1:5555.")
    if int(port[:6]) > 65535:
        raise ValueError(f"{port[:80]} is no port: the last one is 65535.")
    return text


def users_zone() -> str:
    """The user's zone, by name; raises InvalidInput if nobody knows it."""
    from batchq import config  # as above

    return config.users_zone(timezone())


# The types of options and arguments; the name is the one that usage errors print.
TIME = Read("time", parse_time)
DATE = Read("date", parse_day)
DAY_LIST = Read("days", parse_day_list)
ZONE = Read("zone", lambda name: zone(name).key)
WINDOW = Read("window", parse_window)
INSTANT = Read("instant", parse_instant)
SINCE = Read("since", parse_since)
DURATION = Read("duration", parse_duration)
HOURS = Read("hours", parse_hours)
SECONDS = Read("seconds", parse_seconds)
NAME = Read("name", parse_name)
SERVER = Read("server", parse_server)
ADDRESS = Read("address", parse_address)
