"""The hours of a plan as a table: threads in use, idle and missing, on the user's clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from batchq.cli.output import Part, Table, duration

if TYPE_CHECKING:
    from batchq.planning.shapes import PlannedHour, PlanView, ServerHour, Totals

MOST_ROWS = 100
MOST_COLUMNS = 6  # servers that have a column of their own
BAR = 20


@dataclass(frozen=True)
class Times:
    """Tells instants on the user's clock: `Tue 24 Nov 03:12`, with seconds only if the plan needs them."""

    timezone: ZoneInfo
    form: str

    @classmethod
    def of(cls, view: PlanView) -> Times:
        """The times of this plan, in its zone."""
        instants = [
            instant for task in view["tasks"] for instant in (task["ready_at"], task["started_at"], task["ended_at"])
        ]
        whole = all(instant is None or instant[17:19] == "00" for instant in (view["from"], *instants))
        return cls(ZoneInfo(view["timezone"]), "%H:%M" if whole else "%H:%M:%S")

    def __call__(self, iso: str | None, *, since: str | None = None, year: str = "") -> str:
        """The instant, without its day if `since` lies on that day; a dash for None."""
        if iso is None:
            return "–"
        there = datetime.fromisoformat(iso).astimezone(self.timezone)
        if since and there.date() == datetime.fromisoformat(since).astimezone(self.timezone).date():
            return there.strftime(self.form)
        return there.strftime(f"%a %d %b {year}{self.form}")


def hours_table(view: PlanView, times: Times) -> Iterator[Part]:
    """A row for each hour, or for a stretch of equal hours: threads in use of the open ones, idle, and missing."""
    servers = list(view["hours"][0]["servers"])
    shown = servers if len(servers) <= MOST_COLUMNS else []
    most = max((_sum(hour)["threads"] / length(hour) for hour in view["hours"]), default=0)
    rows: list[tuple[str, str, tuple[str, ...]]] = []
    for hour in view["hours"]:
        cells = _cells(hour, shown, most)
        if rows and rows[-1][2] == cells:
            rows[-1] = (rows[-1][0], hour["end"], cells)
        else:
            rows.append((hour["start"], hour["end"], cells))
    columns = ("From", "To", *(shown or ["Threads"]), "Idle", "Missing", "")
    lines = [(times(start), times(end, since=start), *cells) for start, end, cells in rows]
    yield Table(columns, lines[:MOST_ROWS])
    if len(lines) > MOST_ROWS:
        yield f"… and {len(lines) - MOST_ROWS} more rows; -o json has every hour."


def _cells(hour: PlannedHour, shown: Sequence[str], most: float) -> tuple[str, ...]:
    seconds = length(hour)
    servers = [hour["servers"][name] for name in shown] or [_sum(hour)]
    used = [_share(server["busy"] / seconds, server["threads"] / seconds) for server in servers]
    return (*used, _number(hour["idle"] / seconds), _number(hour["missing"] / seconds), _bar(hour, seconds, most))


def length(hour: PlannedHour) -> float:
    """The seconds of an hour; the plan's first and last hour may be shorter."""
    return seconds_between(hour["start"], hour["end"])


def seconds_between(start: str, end: str) -> float:
    """The seconds between two instants."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _sum(hour: PlannedHour) -> ServerHour:
    """The sum over all servers in an hour."""
    servers = hour["servers"].values()
    return {"threads": sum(each["threads"] for each in servers), "busy": sum(each["busy"] for each in servers)}


def _share(busy: float, threads: float) -> str:
    """`3.5/4`; a dash if both are 0."""
    return f"{round(busy, 1):g}/{round(threads, 1):g}" if busy or threads else "–"


def _number(value: float) -> str:
    return f"{round(value, 1):g}" if value else "–"


def _bar(hour: PlannedHour, seconds: float, most: float) -> str:
    """Full blocks for threads in use, light ones for idle ones; with many threads a block stands for several."""
    scale = min(1.0, BAR / most) / seconds if most else 1 / seconds
    used: int = round(_sum(hour)["busy"] * scale)
    there: int = round((_sum(hour)["busy"] + hour["idle"]) * scale)
    return "█" * used + "░" * (there - used)


def total(totals: Totals) -> str:
    """The sums over all hours, in one sentence."""
    share = f" ({totals['busy'] / totals['threads']:.0%})" if totals["threads"] else ""
    return (
        f"In all, threads are open for {_time(totals['threads'])}, in use for {_time(totals['busy'])}{share}, "
        f"idle for {_time(totals['idle'])}; "
        + (f"ready tasks wait {_time(totals['missing'])} for one." if totals["missing"] else "no task waits for one.")
    )


def _time(seconds: float) -> str:
    """`41.7 h`; below an hour as other commands print it."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else duration(seconds)
