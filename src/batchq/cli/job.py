"""`batchq job`: list, show and draw the jobs, each by its newest definition; hold and release them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchq import actions, spec, views
from batchq.cli import graph
from batchq.cli.bulk import change_options
from batchq.cli.context import batch, database, users_now
from batchq.cli.files import chosen_job
from batchq.cli.output import Part, Table, count, label, lasted, local, output_option, print_json, say, watch_option
from batchq.cli.program import is_file
from batchq.cli.reading import ask, print_list, print_view
from batchq.cli.run import runs_table
from batchq.core.conditions import Node

if TYPE_CHECKING:
    from batchq.spec import JobSpec

MOST = 2**63


@click.command("list")
@output_option
@watch_option
def list_(output: str, watch: bool) -> None:
    """List the jobs, each with its newest run."""
    print_list(views.jobs, jobs_table, output=output, watch=watch)


@click.command()
@click.argument("name")
@output_option
def show(name: str, output: str) -> None:
    """Show a job: its tasks with their conditions, and its newest runs."""
    print_view(lambda tx: views.job_view(tx, name), _drawn, output=output)


@click.command("graph")
@click.argument("job", metavar="NAME|FILE")
@click.option(
    "-o",
    "--output",
    type=click.Choice(list(graph.FORMATS)),
    default="text",
    show_default=True,
    help="How it is drawn.",
)
@click.option("--job", "name", metavar="NAME", help="Which job, where the file holds several.")
def graph_(job: str, name: str | None, output: str) -> None:
    """Draw a job: which task follows which, and on what outcome.

    A job is known by its name, or drawn from a file that holds it.
    """
    drawn = _from_file(Path(job), name) if is_file(job) else _read(ask(lambda tx: views.definition(tx, job)))
    nodes = {task.name: Node(task.after, task.join) for task in drawn.tasks}
    for line in graph.FORMATS[output](nodes):
        say(line)


@click.command()
@click.argument("name")
@change_options
def hold(name: str, reason: str | None, dry_run: bool, yes: bool, output: str) -> None:
    """Withhold a job: no run of it starts until it is released, its open runs go on."""
    _told(actions.withhold_job(database(), name, reason=reason, dry_run=dry_run), dry_run, output)


@click.command()
@click.argument("name")
@change_options
def release(name: str, reason: str | None, dry_run: bool, yes: bool, output: str) -> None:
    """Release a job that is withheld: runs of it start again."""
    _told(actions.release_job(database(), name, reason=reason, dry_run=dry_run), dry_run, output)


def _told(result: views.JobResult, dry_run: bool, output: str) -> None:
    """Print what was done, or would be."""
    if output == "json":
        print_json(result)
        return
    stands = "no run of it starts" if result["withheld"] else "runs of it start again"
    would = "would be" if dry_run else "is"
    word = "withheld" if result["withheld"] else "released"
    say(f"Job {result['job']} {would} {word}: {stands}; {count(result['open_runs'], 'open run')} going on.")


def _from_file(file: Path, name: str | None) -> JobSpec:
    return chosen_job(spec.load(file, spec.Sizes.of(batch().settings)), name, file)


def _read(definition: str) -> JobSpec:
    # The settings may have become narrower since the job was stored; it must still be shown.
    return spec.JobSpec.model_validate_json(
        definition, context=spec.Sizes(tasks=MOST, conditions=MOST, argument_bytes=MOST)
    )


def jobs_table(jobs: Sequence[views.JobLine]) -> Table:
    """Jobs for people."""
    now = users_now()
    rows = []
    for job in jobs:
        run = job["last_run"]
        newest = (str(run["run"]), local(run["submitted_at"], now), lasted(run, now)) if run else ("–", "–", "–")
        rows.append((job["job"], label(job["status"]), str(job["run_count"]), *newest))
    columns = ("Job", "Status", "Runs", "Newest", "Submitted", "Time")
    return Table(columns, rows, empty="No jobs. `batchq submit FILE` runs one, `batchq apply FILE` stores it.")


def _limits(job: JobSpec) -> Iterator[str]:
    """The bounds of the job's tasks and of its runs (rule 29)."""
    if named := sorted({limit for task in job.tasks for limit in (*job.limits, *task.limits)}):
        yield f"limits: {' '.join(named)}"
    if job.tasks_at_once is not None:
        yield f"tasks at once: {job.tasks_at_once}"
    if job.one_at_a_time:
        yield "one run at a time"


def _drawn(view: views.JobView) -> Iterator[Part]:
    job = _read(json.dumps(view["definition"]))
    yield f"{view['job']}: {label(view['status'])}, {count(len(job.tasks), 'task')}, {count(view['run_count'], 'run')}"
    if view["why"]:
        yield view["why"]
    if limited := list(_limits(job)):
        yield ", ".join(limited)
    yield ""
    yield Table(
        ("Task", "Runs", "Group", "Priority", "Retries", "After"),
        [
            (
                task.name,
                task.run or "–",
                task.group or job.group or "default",
                task.priority or job.priority or "–",
                str(task.retries),
                graph.after_words(Node(task.after, task.join)).removeprefix("after "),
            )
            for task in job.tasks
        ],
    )
    if view["runs"]:
        yield ""
        yield runs_table(view["runs"])
