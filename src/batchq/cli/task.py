"""`batchq task`: list tasks, show one, say why it waits, abort it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from batchq import actions, views
from batchq.cli.bulk import change_options
from batchq.cli.context import aging, database, timezone, users_now
from batchq.cli.fields import SINCE, TIMES
from batchq.cli.live import note
from batchq.cli.output import (
    Part,
    Table,
    duration,
    first_line,
    label,
    lasted,
    local,
    output_option,
    print_json,
    say,
    waited,
    watch_option,
)
from batchq.cli.reading import ask, print_view
from batchq.core.states import Reason, State
from batchq.escape import printable

if TYPE_CHECKING:
    from batchq.store.transaction import Tx

MOST = 100  # of all runs; those of one run are listed all
REASONS: dict[str | None, str] = {None: "–", **{reason.value: reason.value.replace("_", " ") for reason in Reason}}
NO_TASKS = "No tasks fit. `batchq runs list` shows the runs; leave a filter out to see more."
MET = {None: "open", True: "yes", False: "no"}


@click.command("list")
@click.argument("run", required=False)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([state.value for state in State]),
    help="Only these.",
)
@click.option("--since", type=SINCE, metavar="TIME", help=f"Leave out what ended before {TIMES}.")
@click.option("--job", metavar="NAME", help="Only tasks of this job.")
@click.option("--group", metavar="NAME", help="Only tasks of this batch group.")
@click.option("--stage", metavar="NAME", help="Only tasks of this stage.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), help=f"How many at most; of all runs else {MOST}.")
@output_option
@watch_option
def list_(run: str | None, output: str, watch: bool, limit: int | None, **filters: Any) -> None:
    """List the tasks of a run, or of all runs.

    Without RUN the newest runs come first. A task that has not ended is listed
    whenever it began.
    """
    number = None if run is None else ask(lambda tx: actions.find_run(tx, run))
    chosen = _chosen(**filters)
    most = limit or (MOST if number is None else None)

    def drawn(tasks: Sequence[views.ListedTask]) -> Iterator[Part]:
        yield table_of_all(tasks, users_now()) if number is None else tasks_table(tasks, users_now())
        if len(tasks) == most and not limit:
            yield f"Only the newest {most}: -n shows more, --since and other filters fewer."

    print_view(
        lambda tx: views.tasks(tx, chosen, run=number, limit=most, timezone=timezone()),
        drawn,
        output=output,
        watch=watch,
    )


@click.command()
@click.argument("run")
@click.argument("task")
@output_option
def show(run: str, task: str, output: str) -> None:
    """Show a task: where it stands, what it runs, its conditions and attempts."""
    print_view(lambda tx: _read(tx, run, task), _drawn, output=output)


@click.command()
@click.argument("run")
@click.argument("task")
@output_option
def why(run: str, task: str, output: str) -> None:
    """Say why a task has not started, or didn't run."""
    view = ask(lambda tx: _read(tx, run, task))
    if output == "json":
        said = {"run": view["run"], "job": view["job"], "name": view["name"]}
        print_json({**said, "status": view["status"], "why": view["why"]})
    else:
        click.echo(printable(f"{task}: {sentence(view)}."))


@click.command()
@click.argument("run")
@click.argument("task")
@change_options
def abort(run: str, task: str, reason: str | None, dry_run: bool, yes: bool, output: str) -> None:
    """Stop a task that executes: it is canceled, and not tried again.

    Within about a second its server sends its process SIGTERM, and SIGKILL 5 seconds
    later if it still runs. An operation that succeeds before that stays a success.
    Tasks on the threads pool cannot be aborted.
    """
    result = actions.abort_task(database(), run, task, reason=reason, dry_run=dry_run)
    if output == "json":
        print_json(result)
    else:
        would = "would be aborted" if dry_run else "is being aborted"
        say(f"{result['name']} of run {result['run']} {would}: attempt {result['attempt']} on {result['server']}.")


def tasks_table(tasks: Sequence[views.TaskLine], now: datetime) -> Table:
    """Tasks for people."""
    rows = [
        (
            task["name"],
            label(task["status"]),
            task["server"] or "–",
            task["group"],
            local(task["started_at"], now),
            lasted(task, now),
            note(task),
        )
        for task in tasks
    ]
    columns = ("Task", "Status", "Server", "Group", "Started", "Time", "Note")
    return Table(columns, rows, empty=NO_TASKS, clip=True)


def _chosen(statuses: tuple[str, ...], job: str | None, group: str | None, **rest: Any) -> views.Chosen:
    """The filters; raises NotFound for a job or a group that does not exist."""
    if job is not None:
        ask(lambda tx: actions.find_job(tx, job))
    if group is not None:
        ask(lambda tx: actions.find_group(tx, group))
    return views.Chosen(frozenset(map(State, statuses)), job=job, group=group, **rest)


def table_of_all(tasks: Sequence[views.ListedTask], now: datetime) -> Table:
    """Tasks of several runs, for people."""
    rows = [
        (
            str(task["run"]),
            task["job"],
            task["name"],
            label(task["status"]),
            task["server"] or "–",
            local(task["started_at"], now),
            lasted(task, now),
            note(task),
        )
        for task in tasks
    ]
    columns = ("Run", "Job", "Task", "Status", "Server", "Started", "Time", "Note")
    return Table(columns, rows, empty=NO_TASKS, clip=True)


def _read(tx: Tx, run: str, task: str) -> views.TaskView:
    return views.task_view(tx, actions.find_run(tx, run), task, timezone=timezone(), aging=aging())


def sentence(view: views.TaskView) -> str:
    """Where a task stands, without a full stop: its status, and its server, reason or error."""
    if view["why"]:
        return f"{label(view['status'])}, {view['why']}"
    if view["status"] == State.EXECUTING:
        since = local(view["started_at"], users_now())
        return f"{label(view['status'])} on {view['server']} since {since}"
    return label(view["status"]) + (f", {note(view)}" if note(view) else "")


def _drawn(view: views.TaskView) -> Iterator[Part]:
    yield f"{view['job']} run {view['run']} / {view['name']}: {sentence(view)}"
    yield from _settings(view)
    if view["result"] is not None:
        yield f"result: {json.dumps(view['result'], ensure_ascii=False)}"
    if view["after"]:
        yield ""
        rows = [(one["task"], one["outcome"], label(one["status"]), MET[one["met"]]) for one in view["after"]]
        yield Table(("After", "Outcome", "Status", "Met"), rows)
    if view["history"]:
        yield ""
        yield _attempts(view["history"])


def _settings(view: views.TaskView) -> Iterator[str]:
    """Lines about the operation, and how it runs."""
    arguments = [json.dumps(value, ensure_ascii=False) for value in view["args"]]
    arguments += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in view["kwargs"].items()]
    if view["operation"] is None:
        yield "a gate, which runs nothing"
    else:
        yield f"{view['operation']}({', '.join(arguments)}), group {view['group']}, priority {view['priority']}"
    if view["limits"]:
        yield f"limits: {', '.join(view['limits'])}"
    if view["retries"]:
        yield _retries(view)
    if view["repeatable"]:
        yield "repeatable: to run it once more does no harm"


def _attempts(history: Sequence[views.AttemptView]) -> Table:
    now = users_now()
    rows = [
        (
            str(one["attempt"]),
            one["server"] or "–",
            label(one["status"]),
            REASONS[one["reason"]],
            waited(one),
            local(one["started_at"], now),
            lasted(one, now),
            one["error_class"] or "–",
            first_line(one["error"]),
        )
        for one in history
    ]
    return Table(("Attempt", "Server", "Status", "Reason", "Waited", "Started", "Time", "Class", "Error"), rows)


def _retries(view: views.TaskView) -> str:
    """How often a task is tried again, when, and after which errors."""
    said = [f"retries {view['retries']}", f"after {duration(view['retry_delay'])}"]
    if view["retry_backoff"] != 1:
        said[-1] += f" × {view['retry_backoff']:g} each time"
    if view["retry_delay_max"] is not None:
        said.append(f"at most {duration(view['retry_delay_max'])}")
    if view["retry_jitter"]:
        said.append(f"± {view['retry_jitter']:.0%}")
    named = {"only on": view["retry_on"], "never on": view["retry_never_on"]}
    return "; ".join([", ".join(said), *(f"{word} {', '.join(names)}" for word, names in named.items() if names)])
