"""Drawings of a server's coming periods: a bar for each day, and a row for each period."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from itertools import groupby
from zoneinfo import ZoneInfo

from batchq.cli import override as overriding
from batchq.cli.output import Part, Table, count, duration
from batchq.core.windows import DAY, SECOND, Period, format_time, zone
from batchq.views import PeriodView, ServerView

CELL = timedelta(minutes=30)
CELLS = DAY // CELL
BLOCKS = "▁▂▃▄▅▆▇█"
NO_THREADS = "·"
OUTSIDE = " "
LABEL = len("Thu 2026-12-24")


@dataclass(frozen=True, slots=True)
class Jump:
    """A change of the clocks at the instant `at`: from the wall time `before` to the wall time `after`."""

    at: datetime
    before: datetime
    after: datetime

    def __str__(self) -> str:
        forward = self.after.replace(tzinfo=None) > self.before.replace(tzinfo=None)
        was, is_ = (f"{_clock(each)} {each:%Z}" for each in (self.before, self.after))
        return f"clocks go {'forward' if forward else 'back'}: {was} is {is_}"


def drawn(server: ServerView, views: Sequence[PeriodView], zone_name: str) -> Iterator[Part]:
    """The periods of `views.periods` for people, told in that zone."""
    tz = zone(zone_name)
    periods = [_period(one) for one in views]
    begin, end = periods[0].start, periods[-1].end
    yield f"{server['name']} from {_local(begin, tz)} to {_local(end, tz)}, {zone_name}"
    if server["state"] in ("disabled", "lost", "stopped"):
        yield f"It is {server['state']} now; this is what its windows allow."
    if views[0]["override"] is not None:
        yield f"It has {overriding.words(views[0]['override'], zone_name)}."
    yield ""
    jumps = list(_jumps(tz, begin, end))
    yield from _bars(periods, jumps, tz)
    yield ""
    rows = zip(periods, (view["override"] is not None for view in views), strict=True)
    yield Table(("From", "To", "UTC", "Lasts", "Threads", "Note"), [_row(*each, jumps, tz) for each in rows])


def _period(view: PeriodView) -> Period:
    return Period(datetime.fromisoformat(view["start"]), datetime.fromisoformat(view["end"]), view["threads"])


# --- periods ------------------------------------------------------------------------------------------------


def _row(one: Period, overridden: bool, jumps: Sequence[Jump], tz: ZoneInfo) -> tuple[str, ...]:
    notes = ["override"] if overridden else ["gap"] if not one.threads else []
    notes += [str(jump) for jump in jumps if one.start <= jump.at < one.end]
    return (
        _local(one.start, tz),
        _local(one.end, tz),
        f"{_clock(one.start)} – {_clock(one.end)}",
        duration((one.end - one.start).total_seconds()),
        str(one.threads),
        "; ".join(notes),
    )


def _local(instant: datetime, tz: ZoneInfo) -> str:
    there = instant.astimezone(tz)
    return f"{there:%a %Y-%m-%d} {_clock(there)}"


def _clock(there: datetime) -> str:
    return format_time(there.time().replace(microsecond=0))


def _jumps(tz: ZoneInfo, begin: datetime, end: datetime) -> Iterator[Jump]:
    """The changes of the clocks from `begin` until before `end`."""
    while begin < end:
        stop = min(begin + DAY, end)
        if _offset(begin - SECOND, tz) != _offset(stop - SECOND, tz):
            at = _first_after(begin - SECOND, stop - SECOND, tz)
            was = (at - SECOND).astimezone(tz)
            yield Jump(at, at.astimezone(timezone(_offset(at - SECOND, tz), was.tzname() or "")), at.astimezone(tz))
        begin = stop


def _first_after(before: datetime, after: datetime, tz: ZoneInfo) -> datetime:
    """The instant, to the second, at which the zone's offset becomes that of `after`."""
    while after - before > SECOND:
        middle = before + (after - before) // 2
        if _offset(middle, tz) == _offset(after, tz):
            after = middle
        else:
            before = middle
    return after.replace(microsecond=0)


def _offset(instant: datetime, tz: ZoneInfo) -> timedelta:
    return instant.astimezone(tz).utcoffset() or timedelta()


# --- bars ---------------------------------------------------------------------------------------------------


def _bars(periods: Sequence[Period], jumps: Sequence[Jump], tz: ZoneInfo) -> Iterator[str]:
    """A line for each local day: a character for each half hour on the wall clock."""
    most = max(one.threads for one in periods)
    first, last = periods[0].start.astimezone(tz).date(), (periods[-1].end - SECOND).astimezone(tz).date()
    jumping = {jump.at.astimezone(tz).date() for jump in jumps}
    yield " " * LABEL + "  " + "".join(f"{hour:02}".ljust(6) for hour in range(0, 24, 3)).rstrip()
    for number in range((last - first).days + 1):
        day = first + number * DAY
        cells = "".join(_block(threads, most) for threads in _cells(periods, day, tz))
        mark = "  clocks change" if day in jumping else ""
        yield f"{day:%a %Y-%m-%d}  {cells}{mark}".rstrip()
    yield f"{'half hours'.rjust(LABEL)}  {_legend(periods, most)}"


def _cells(periods: Sequence[Period], day: date, tz: ZoneInfo) -> Iterator[int | None]:
    """The threads in each half hour of a day: None where the clocks skip it, the larger number where it comes twice."""
    starts = [one.start for one in periods]
    for number in range(CELLS):
        wall = datetime.combine(day, time()) + number * CELL
        instants = [wall.replace(tzinfo=tz, fold=fold).astimezone(UTC) for fold in (0, 1)]
        real = [each for each in instants if each.astimezone(tz).replace(tzinfo=None) == wall]
        inside = [each for each in real if starts[0] <= each < periods[-1].end]
        yield max((periods[bisect_right(starts, each) - 1].threads for each in inside), default=None)


def _block(threads: int | None, most: int) -> str:
    if threads is None:
        return OUTSIDE
    return BLOCKS[-(-threads * len(BLOCKS) // most) - 1] if threads else NO_THREADS


def _legend(periods: Sequence[Period], most: int) -> str:
    """`▁ 2 threads  █ 20 threads  · none`."""
    numbers = sorted({one.threads for one in periods if one.threads})
    said = [f"{block} {_span(list(group))}" for block, group in groupby(numbers, lambda each: _block(each, most))]
    return "  ".join([*said, f"{NO_THREADS} none"])


def _span(numbers: list[int]) -> str:
    return count(numbers[0], "thread") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} threads"
