"""Readers of the text that commands take: times, days, zones, windows, instants."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day

import click

from batchq import clock
from batchq.cli.context import timezone
from batchq.core.windows import DAYS, YEARS, Window, parse_date, parse_days, parse_time, zone

TEXT = re.compile(r"\s*([\d:]+)\s*-\s*([\d:]+)\s*=\s*(-?\d{1,9})(?:\s+([^\s\[\]]+))?\s*(?:\[([^\[\]]*)\])?\s*")
FORM = '"18:00-07:30=20 Europe/Oslo [mon-fri]"'
LONGEST_HOURS = 24 * 400
TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
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


def parse_hours(text: str) -> timedelta:
    """Read a number of hours; ValueError unless it is a length of time."""
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= LONGEST_HOURS:
        raise ValueError(f"{text[:80]!r} is not a number of hours. It is more than 0, and at most {LONGEST_HOURS}.")
    return max(timedelta(hours=hours), timedelta(seconds=1))


def parse_duration(text: str) -> float:
    """Read a duration as seconds: a number, or one with s, m, h, d or w; ValueError for anything else."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        return parse_seconds(str(float(number) * UNITS[unit]))
    except ValueError:
        raise ValueError(
            f"{text[:80]!r} is no duration. Write seconds, or a number with s, m, h, d or w: 90, 5m, 1.5h."
        ) from None


def parse_since(text: str) -> datetime:
    """Read the beginning of a time that lasts until now: an instant, a time of day, or a duration.

    A time of day is the last such one, in the user's zone. ValueError for anything else.
    """
    if TIME_OF_DAY.fullmatch(text):
        return _last(parse_time(text))
    try:
        return clock.now() - timedelta(seconds=parse_duration(text))
    except ValueError:
        return parse_instant(text)


def _last(time: time_of_day) -> datetime:
    now = clock.now().astimezone(zone(users_zone()))
    today = datetime.combine(now.date(), time, now.tzinfo)
    last = today if today <= now else datetime.combine(now.date() - timedelta(days=1), time, now.tzinfo)
    return last.astimezone(UTC)


def parse_seconds(text: str) -> float:
    """Read a number of seconds, 0 or more; ValueError unless it is a length of time."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"{text[:80]!r} is not a number of seconds. It is 0 or more, and at most {LONGEST_SECONDS:,}.")
    return seconds


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
HOURS = Read("hours", parse_hours)
SECONDS = Read("seconds", parse_seconds)
DURATION = Read("duration", parse_duration)
SINCE = Read("since", parse_since)
NAME = Read("name", parse_name)
SERVER = Read("server", parse_server)
ADDRESS = Read("address", parse_address)
