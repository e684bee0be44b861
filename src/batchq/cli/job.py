"""`batchq job`: the jobs, each with its newest definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchq.cli import graph
from batchq.cli.context import batch, database, is_file, limits, users_now
from batchq.cli.output import Part, Table, count, label, lasted, local, output_option, present, say, watch_option
from batchq.cli.runs import runs_table
from batchq.core.conditions import Node

if TYPE_CHECKING:
    from batchq.spec import JobSpec


MOST = 2**63


@click.group()
def job() -> None:
    """Jobs: list, show, graph. A job exists once a run of it was submitted, or a file with it applied."""


@job.command("list")
@output_option
@watch_option
def list_(output: str, watch: bool) -> None:
    """List the jobs, each with its newest run."""
    from batchq import views

    opened = database()

    def read() -> Sequence[Mapping[str, Any]]:
        with opened.read() as tx:
            return views.jobs(tx)

    present(read, _listed, output=output, watch=watch)


@job.command()
@click.argument("name")
@output_option
def show(name: str, output: str) -> None:
    """Show a job: its tasks with their conditions, and its newest runs."""
    from batchq import views

    def read() -> Mapping[str, Any]:
        with database().read() as tx:
            return views.job_view(tx, name)

    present(read, _drawn, output=output)


@job.command("graph")
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
    spec = _from_file(Path(job), name) if is_file(job) else _stored(job)
    nodes = {task.name: Node(task.after, task.join) for task in spec.tasks}
    for line in graph.FORMATS[output](nodes):
        say(line)


def _from_file(file: Path, name: str | None) -> JobSpec:
    from batchq import spec
    from batchq.cli.files import chosen_job

    return chosen_job(spec.load(file, limits(batch().settings)), name, file)


def _stored(name: str) -> JobSpec:
    from batchq import views

    with database().read() as tx:
        return _read(views.definition(tx, name))


def _read(definition: str) -> JobSpec:
    from batchq.spec import JobSpec, Limits

    # It was within the limits of its time, which may have been wider ones.
    return JobSpec.model_validate_json(definition, context=Limits(tasks=MOST, conditions=MOST, argument_bytes=MOST))


def _listed(jobs: Sequence[Mapping[str, Any]]) -> Iterator[Part]:
    now = users_now()
    rows = []
    for job in jobs:
        run = job["last_run"]
        newest = (str(run["run"]), local(run["submitted_at"], now), lasted(run, now)) if run else ("–", "–", "–")
        rows.append((job["job"], label(job["status"]), str(job["run_count"]), *newest))
    columns = ("Job", "Status", "Runs", "Newest", "Submitted", "Time")
    yield Table(columns, rows, empty="No jobs. `batchq submit FILE` runs one, `batchq apply FILE` stores it.")


def _drawn(view: Mapping[str, Any]) -> Iterator[Part]:
    import json

    spec = _read(json.dumps(view["definition"]))
    yield f"{view['job']}: {label(view['status'])}, {count(len(spec.tasks), 'task')}, {count(view['run_count'], 'run')}"
    yield ""
    yield Table(
        ("Task", "Runs", "Group", "Priority", "Retries", "After"),
        [
            (
                task.name,
                task.run,
                task.group or spec.group or "default",
                task.priority or spec.priority or "–",
                str(task.retries),
                graph.after_words(Node(task.after, task.join)).removeprefix("after "),
            )
            for task in spec.tasks
        ],
    )
    if view["runs"]:
        yield ""
        yield from runs_table(view["runs"])
