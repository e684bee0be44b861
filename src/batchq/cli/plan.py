"""`batchq plan`: the options, and the printed plan of what would run when and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchq import clock
from batchq.cli.context import aging, batch, database
from batchq.cli.fields import HOURS, SECONDS, ZONE, Read, parse_instant, parse_seconds, users_zone
from batchq.cli.files import FILE, chosen_job
from batchq.cli.output import Part, Table, count, counted, duration, label, output_option, present
from batchq.cli.override import words
from batchq.cli.plan_hours import Times, hours_table, seconds_between, total
from batchq.cli.program import app_option
from batchq.errors import InvalidInput
from batchq.escape import printable

if TYPE_CHECKING:
    from batchq.planning.shapes import JobName, PlanView, TaskName
    from batchq.spec import Document, JobSpec
    from batchq.store.database import Database

MOST_TASKS = 20  # above it, only --tasks shows the tasks


def parse_duration(text: str) -> tuple[str, float]:
    """Read the name and the seconds of `NAME=SECONDS`; raises ValueError for anything else."""
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
    from batchq.core.simulation import simulate
    from batchq.embedded import DEFAULT_SERVERS
    from batchq.planning.guess import Guess
    from batchq.planning.report import report_on
    from batchq.planning.scene import Site, set_scene

    timezone = zone_name or users_zone()
    start = _instant(begin, timezone, queue=queue)
    guess = Guess(dict(durations), failing, default_duration)
    document, jobs = _read(file, names, queue=queue)
    site = Site(_opened, batch().settings.max_pool, DEFAULT_SERVERS)
    scene = set_scene(document, jobs, guess, site, queue=queue)
    simulation = simulate(scene.topology, scene.runs(), start, start + hours, timezone, aging())
    view = report_on(simulation, scene.subjects, scene.guess, timezone, scene.source)
    title = "Plan" if file is None else f"Plan of {file}"
    present(lambda: view, lambda view: _drawn(view, title, every), output=output)


# --- what goes in -------------------------------------------------------------------------------------------


def _read(file: Path | None, names: Sequence[str], *, queue: bool) -> tuple[Document, list[JobSpec]]:
    """Read the file, and choose its jobs of these names; without names all of them."""
    from batchq import spec

    if file is None:
        if not queue or names:
            raise click.UsageError(
                "Name a FILE with the jobs to plan; only --queue goes without one, and without --job."
            )
        return spec.Document(), []
    document = spec.load(file, spec.Sizes.of(batch().settings))
    if not (document.jobs or queue):
        raise InvalidInput(f"{file} holds no job.")
    chosen = [chosen_job(document, name, file) for name in dict.fromkeys(names)]
    return document, chosen or list(document.jobs.values())


def _opened() -> Database | None:
    """The database, or None if it is our own file and not there yet: a plan creates nothing."""
    settings = batch().settings
    if settings.database_url is None and not (settings.home / "batchq.db").exists():
        return None
    return database()


def _instant(text: str | None, timezone: str, *, queue: bool) -> datetime:
    """Read the instant, by the clock in `timezone` if it has no offset; without a text it is now."""
    if text is None:
        return clock.now().replace(microsecond=0)
    if queue:
        raise click.UsageError("--queue is what is open now: leave --from out.")
    try:
        return parse_instant(text, timezone)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--from") from None


# --- what comes out -----------------------------------------------------------------------------------------


def _drawn(view: PlanView, title: str, every: bool) -> Iterator[Part]:
    times = Times.of(view)
    all_shown = every or len(view["tasks"]) <= MOST_TASKS
    yield f"{printable(title)} for {_hours(view)} from {times(view['from'], year='%Y ')} {view['timezone']}"
    yield _sources(view)
    for server, override in view["overrides"].items():
        yield f"{printable(server)} has {words(override, view['timezone'])}."
    yield ""
    yield _jobs_table(view, times)
    if all_shown and view["tasks"]:
        yield ""
        yield _tasks_table(view, times)
    yield ""
    yield "Threads in use of those that are open, and tasks that are ready and lack one, on the average of each hour:"
    yield from hours_table(view, times)
    yield ""
    yield total(view["totals"])
    if view["longest_waits"]:
        yield ""
        yield "The longest waits:"
        yield _waits_table(view, times)
    if not all_shown:
        yield ""
        yield f"--tasks shows all {len(view['tasks'])} tasks, -o json everything."


def _hours(view: PlanView) -> str:
    return f"{seconds_between(view['from'], view['to']) / 3600:g} h"


def _sources(view: PlanView) -> str:
    """A sentence on the sources of servers and durations."""
    from batchq.planning.guess import SOURCES

    servers = count(len(view["hours"][0]["servers"]), "server")
    found = {
        "file": f"{servers} of the file",
        "database": f"{servers} of the database",
        "both": f"{servers} of the database and the file",
        "default": f"{servers}, as `batchq run` starts them",
    }[view["servers_from"]]
    durations = ", ".join(f"{number} {SOURCES[source]}" for source, number in view["durations"].items() if number)
    return f"On {found}; durations of tasks: {durations or 'none'}."


def _jobs_table(view: PlanView, times: Times) -> Table:
    rows = [
        (
            _job_name(job),
            label(job["status"]),
            times(job["ends_at"]),
            duration(job["seconds"]) if job["seconds"] is not None else "not within the plan",
            counted(job["tasks"]),
        )
        for job in view["jobs"]
    ]
    return Table(("Job", "Status", "Ends", "After", "Tasks"), rows, empty="Nothing is open.")


def _named(view: PlanView) -> Callable[[TaskName], str]:
    """How to name a task: with its job, if the plan has several."""
    if len(view["jobs"]) == 1:
        return lambda task: task["task"]
    return lambda task: f"{_job_name(task)} / {task['task']}"


def _job_name(named: JobName) -> str:
    return f"{named['job']} run {named['run']}" if named["run"] else named["job"]


def _tasks_table(view: PlanView, times: Times) -> Table:
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


def _waits_table(view: PlanView, times: Times) -> Table:
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
