"""`batchq plan`: what would run when and where, before it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from batchq import clock
from batchq.cli.context import batch, database, limits
from batchq.cli.fields import HOURS, SECONDS, ZONE, Read, parse_instant, parse_seconds, users_zone
from batchq.cli.files import FILE, chosen_job
from batchq.cli.output import Part, Table, count, counted, duration, label, output_option, present
from batchq.cli.program import app_option
from batchq.errors import InvalidInput
from batchq.escape import printable

if TYPE_CHECKING:
    from batchq.core.affinity import Topology
    from batchq.forecast import Guess, Subject
    from batchq.spec import Document, JobSpec
    from batchq.store.database import Database

MOST_TASKS = 20  # that are shown without --tasks
MOST_ROWS = 100  # of the table of hours
MOST_COLUMNS = 6  # servers that have a column of their own
BAR = 20


def parse_duration(text: str) -> tuple[str, float]:
    """The name and the seconds that `NAME=SECONDS` says; ValueError for anything else."""
    name, equals, seconds = text.rpartition("=")
    if not (name and equals):
        raise ValueError(f"{text[:80]!r} is no duration. Write it as NAME=SECONDS, such as 'TASK 1=90'.")
    return name, parse_seconds(seconds)


DURATION = Read("duration", parse_duration)


@click.command()
@click.argument("file", type=FILE, required=False)
@click.option("--from", "begin", metavar="INSTANT", help="When it begins, in ISO 8601; without offset by your clock.")
@click.option("--hours", type=HOURS, default="24", show_default=True, metavar="N", help="How far to look.")
@click.option(
    "--tz", "zone_name", type=ZONE, metavar="ZONE", help="Your zone; else BATCHQ_TIMEZONE, else the machine's."
)
@click.option("--job", "names", multiple=True, metavar="NAME", help="Only this job of the file; may be repeated.")
@click.option(
    "--duration",
    "durations",
    multiple=True,
    type=DURATION,
    metavar="NAME=SECONDS",
    help="How long a task, JOB / TASK or an operation takes; may be repeated.",
)
@click.option(
    "--default-duration",
    type=SECONDS,
    default="60",
    show_default=True,
    metavar="SECONDS",
    help="How long a task takes of which nothing else is known.",
)
@click.option("--failing", multiple=True, metavar="NAME", help="This task, or JOB / TASK, fails; may be repeated.")
@click.option("--queue", is_flag=True, help="Also what is open in the database now; FILE may then be left out.")
@click.option("--tasks", "every", is_flag=True, help=f"Print every task, also where there are more than {MOST_TASKS}.")
@app_option
@output_option
def plan(
    file: Path | None,
    begin: str | None,
    hours: timedelta,
    zone_name: str | None,
    names: tuple[str, ...],
    durations: tuple[tuple[str, float], ...],
    default_duration: float,
    failing: tuple[str, ...],
    queue: bool,
    every: bool,
    output: str,
) -> None:
    """Simulate the jobs in FILE: what would run when and where.

    Servers are those of the file, if it has any, else those of the database; with --queue both. All of them
    count as running. How long a task takes is said by --duration, by its key `duration` in the file, or by
    its last ten successes. Nothing is stored, nothing runs.
    """
    from batchq import forecast
    from batchq.core.plan import plan as simulate

    timezone = zone_name or users_zone()
    start = _instant(begin, timezone, queue=queue)
    guess = forecast.Guess(dict(durations), failing, default_duration)
    scene = _scene(*_read(file, names, queue=queue), guess, queue=queue)
    runs = [forecast.simulated(subject, scene.guess, scene.priorities) for subject in scene.subjects]
    found = simulate(scene.topology, runs, start, start + hours, timezone)
    view = forecast.view(found, scene.subjects, scene.guess, timezone, scene.source)
    title = "Plan" if file is None else f"Plan of {file}"
    present(lambda: view, lambda view: _drawn(view, title, every), output=output)


# --- what goes in -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """What is played and where: servers, from the `file`, the `database`, both or by `default`, and what is known."""

    subjects: Sequence[Subject]
    topology: Topology
    source: str
    priorities: Mapping[str, int]
    guess: Guess


def _read(file: Path | None, names: Sequence[str], *, queue: bool) -> tuple[Document, list[JobSpec]]:
    """What the file says, and those of its jobs that are chosen; without any names all of them."""
    from batchq import spec

    if file is None:
        if not queue or names:
            raise click.UsageError(
                "Name a FILE with the jobs to plan; only --queue goes without one, and without --job."
            )
        return spec.Document(), []
    document = spec.load(file, limits(batch().settings))
    if not (document.jobs or queue):
        raise InvalidInput(f"{file} holds no job.")
    chosen = [chosen_job(document, name, file) for name in dict.fromkeys(names)]
    return document, chosen or list(document.jobs.values())


def _scene(document: Document, jobs: Sequence[JobSpec], guess: Guess, *, queue: bool) -> Scene:
    """The jobs of the file behind what is open, on its servers, and with what the database knows where that matters.

    The database is opened only if it is needed, and never made.
    """
    from batchq import forecast

    seen = forecast.Seen()
    needed = queue or not document.servers or forecast.needs_past(jobs, guess)
    if needed and (opened := _opened()):
        with opened.read() as tx:
            seen = forecast.see(tx, jobs, queue=queue)
    subjects = [*seen.queue, *map(forecast.Subject, jobs)]
    every = [subject.job for subject in subjects]
    forecast.check_names(every, guess.durations, "--duration", operations=True)
    forecast.check_names(every, guess.failing, "--failing")
    topology, source = _servers(document, seen.topology, queue=queue)
    return Scene(
        subjects,
        forecast.with_pools(topology, batch().settings.max_pool),
        source,
        {**seen.priorities, **forecast.priorities_of(document)},
        replace(guess, past=seen.past),
    )


def _servers(document: Document, stored: Topology, *, queue: bool) -> tuple[Topology, str]:
    """The servers of the file, if it has any, else of the database, else those that `batchq run` starts.

    What is open runs on the servers of the database: with the queue they count as well.
    """
    from batchq import forecast
    from batchq.embedded import DEFAULT_SERVERS
    from batchq.spec import Document, ServerSpec

    if document.servers and queue and stored.servers:
        return forecast.set_over(stored, document), "both"
    if document.servers:
        return forecast.topology_of(document), "file"
    if stored.servers:
        return stored, "database"
    return forecast.topology_of(Document(servers={name: ServerSpec() for name in DEFAULT_SERVERS})), "default"


def _opened() -> Database | None:
    """The database, unless it is our own file and not there yet."""
    settings = batch().settings
    if settings.database_url is None and not (settings.home / "batchq.db").exists():
        return None
    return database()


def _instant(text: str | None, timezone: str, *, queue: bool) -> datetime:
    """The instant that the text says, by the clock in `timezone` if it has no offset; now without a text."""
    if text is None:
        return clock.now().replace(microsecond=0)
    if queue:
        raise click.UsageError("--queue is what is open now: leave --from out.")
    try:
        return parse_instant(text, timezone)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--from") from None


# --- what comes out -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """Tells the time on the user's clock: `Tue 24 Nov 03:12`, with seconds only if some instant of the plan has any."""

    timezone: ZoneInfo
    form: str

    @classmethod
    def of(cls, view: Mapping[str, Any]) -> Times:
        instants = [task[key] for task in view["tasks"] for key in ("ready_at", "started_at", "ended_at")]
        whole = all(instant is None or instant[17:19] == "00" for instant in (view["from"], *instants))
        return cls(ZoneInfo(view["timezone"]), "%H:%M" if whole else "%H:%M:%S")

    def __call__(self, iso: str | None, *, since: str | None = None, year: str = "") -> str:
        """The instant, without its day if that is the day of `since`; a dash for none."""
        if iso is None:
            return "–"
        there = datetime.fromisoformat(iso).astimezone(self.timezone)
        if since and there.date() == datetime.fromisoformat(since).astimezone(self.timezone).date():
            return there.strftime(self.form)
        return there.strftime(f"%a %d %b {year}{self.form}")


def _drawn(view: Mapping[str, Any], title: str, every: bool) -> Iterator[Part]:
    times = Times.of(view)
    all_shown = every or len(view["tasks"]) <= MOST_TASKS
    yield f"{printable(title)} for {_hours(view)} from {times(view['from'], year='%Y ')} {view['timezone']}"
    yield _sources(view)
    yield ""
    yield _jobs_table(view, times)
    if all_shown and view["tasks"]:
        yield ""
        yield _tasks_table(view, times)
    yield ""
    yield "Threads in use of those that are open, and tasks that are ready and lack one, on the average of each hour:"
    yield from _hours_table(view, times)
    yield ""
    yield _total(view["totals"])
    if view["longest_waits"]:
        yield ""
        yield "The longest waits:"
        yield _waits_table(view, times)
    if not all_shown:
        yield ""
        yield f"--tasks shows all {len(view['tasks'])} tasks, -o json everything."


def _hours(view: Mapping[str, Any]) -> str:
    return f"{_length(view, 'from', 'to') / 3600:g} h"


def _sources(view: Mapping[str, Any]) -> str:
    """Where servers and durations come from."""
    from batchq.forecast import SOURCES

    servers = count(len(view["hours"][0]["servers"]), "server")
    found = {
        "file": f"{servers} of the file",
        "database": f"{servers} of the database",
        "both": f"{servers} of the database and the file",
        "default": f"{servers}, as `batchq run` starts them",
    }[view["servers_from"]]
    durations = ", ".join(f"{number} {SOURCES[source]}" for source, number in view["durations"].items() if number)
    return f"On {found}; durations of tasks: {durations or 'none'}."


def _jobs_table(view: Mapping[str, Any], times: Times) -> Table:
    rows = [
        (
            _job_name(job),
            label(job["status"]),
            times(job["ends_at"]),
            duration(job["seconds"]) if job["ends_at"] else "not within the plan",
            counted(job["tasks"]),
        )
        for job in view["jobs"]
    ]
    return Table(("Job", "Status", "Ends", "After", "Tasks"), rows, empty="Nothing is open.")


def _named(view: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], str]:
    """How tasks are named: with their job, if there are several."""
    if len(view["jobs"]) == 1:
        return lambda task: str(task["task"])
    return lambda task: f"{_job_name(task)} / {task['task']}"


def _job_name(named: Mapping[str, Any]) -> str:
    return f"{named['job']} run {named['run']}" if named["run"] else str(named["job"])


def _tasks_table(view: Mapping[str, Any], times: Times) -> Table:
    named = _named(view)
    rows = [
        (
            named(task),
            label(task["status"]),
            task["server"] or "–",
            times(task["started_at"]),
            times(task["ended_at"]) if task["started_at"] else "–",
            duration(task["waited_seconds"]) if task["waited_seconds"] else "–",
            task["why"] or "",
        )
        for task in view["tasks"]
    ]
    return Table(("Task", "Status", "Server", "Starts", "Ends", "Waited", "Why"), rows)


def _waits_table(view: Mapping[str, Any], times: Times) -> Table:
    named = _named(view)
    rows = [
        (
            named(wait),
            times(wait["ready_at"]),
            times(wait["started_at"]),
            duration(wait["waited_seconds"]),
            wait["why"],
        )
        for wait in view["longest_waits"]
    ]
    return Table(("Task", "Ready", "Starts", "Waits", "Because"), rows)


def _hours_table(view: Mapping[str, Any], times: Times) -> Iterator[Part]:
    """A row for each hour, or for several that are alike: threads in use of those there are, idle, and missing."""
    servers = list(view["hours"][0]["servers"])
    shown = servers if len(servers) <= MOST_COLUMNS else []
    most = max((_sum(hour, "threads") / _length(hour) for hour in view["hours"]), default=0)
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


def _cells(hour: Mapping[str, Any], shown: Sequence[str], most: float) -> tuple[str, ...]:
    seconds = _length(hour)
    servers = [hour["servers"][name] for name in shown] or [
        {"threads": _sum(hour, "threads"), "busy": _sum(hour, "busy")}
    ]
    used = [_share(server["busy"] / seconds, server["threads"] / seconds) for server in servers]
    return (*used, _number(hour["idle"] / seconds), _number(hour["missing"] / seconds), _bar(hour, seconds, most))


def _length(span: Mapping[str, Any], start: str = "start", end: str = "end") -> float:
    return (datetime.fromisoformat(span[end]) - datetime.fromisoformat(span[start])).total_seconds()


def _sum(hour: Mapping[str, Any], what: str) -> float:
    return float(sum(server[what] for server in hour["servers"].values()))


def _share(busy: float, threads: float) -> str:
    """`3.5/4`; a dash where there is nothing."""
    return f"{round(busy, 1):g}/{round(threads, 1):g}" if busy or threads else "–"


def _number(value: float) -> str:
    return f"{round(value, 1):g}" if value else "–"


def _bar(hour: Mapping[str, Any], seconds: float, most: float) -> str:
    """Full blocks for threads in use, light ones for idle ones; where they are many, a block is several threads."""
    scale = min(1.0, BAR / most) / seconds if most else 1 / seconds
    used: int = round(_sum(hour, "busy") * scale)
    there: int = round((_sum(hour, "busy") + hour["idle"]) * scale)
    return "█" * used + "░" * (there - used)


def _total(totals: Mapping[str, float]) -> str:
    share = f" ({totals['busy'] / totals['threads']:.0%})" if totals["threads"] else ""
    return (
        f"In all, threads are open for {_time(totals['threads'])}, in use for {_time(totals['busy'])}{share}, "
        f"idle for {_time(totals['idle'])}; "
        + (f"ready tasks wait {_time(totals['missing'])} for one." if totals["missing"] else "no task waits for one.")
    )


def _time(seconds: float) -> str:
    """`41.7 h`, or less than an hour as it is said elsewhere."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else duration(seconds)
