"""`batchq task`: list and show the tasks of a run, print their logs, say why they wait."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from batchq import actions, views
from batchq.cli.context import aging, timezone, users_now
from batchq.cli.live import note
from batchq.cli.output import (
    Part,
    Table,
    first_line,
    label,
    lasted,
    local,
    output_option,
    print_json,
    watch_option,
)
from batchq.cli.reading import ask, print_list, print_view
from batchq.core.states import State
from batchq.errors import NotFound
from batchq.escape import LINES, printable

if TYPE_CHECKING:
    from batchq.store.transaction import Tx

MET = {None: "open", True: "yes", False: "no"}


@click.command("list")
@click.argument("run")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([state.value for state in State]),
    help="Only these.",
)
@output_option
@watch_option
def list_(run: str, statuses: tuple[str, ...], output: str, watch: bool) -> None:
    """List the tasks of a run."""
    number = ask(lambda tx: actions.find_run(tx, run))

    def chosen(tx: Tx) -> Sequence[views.TaskLine]:
        tasks = views.run_view(tx, number, timezone=timezone(), aging=aging())["tasks"]
        return [task for task in tasks if not statuses or task["status"] in statuses]

    print_list(chosen, lambda tasks: tasks_table(tasks, users_now()), output=output, watch=watch)


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
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="This attempt; without it the last one.")
@output_option
def log(run: str, task: str, attempt: int | None, output: str) -> None:
    """Print what an attempt of a task logged.

    With -o json all attempts that ended, each with its log.
    """
    view = ask(lambda tx: _read(tx, run, task))
    history = [one for one in view["history"] if attempt in (None, one["attempt"])]
    if output == "json":
        print_json(history)
        return
    if not history:
        ended = ", ".join(str(one["attempt"]) for one in view["history"]) or "none"
        raise NotFound(f"{task} is {label(view['status'])}, with no such log. Attempts that ended: {ended}.")
    last = history[-1]
    text = last["log"] or last["error"] or ""
    # A file or a pipe may end at a terminal, which would obey a raw escape; -o json has the text unescaped.
    click.echo(printable(text, LINES), nl=not text.endswith("\n"))


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
        click.echo(printable(f"{task}: {_sentence(view)}."))


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
    return Table(columns, rows, empty="No tasks with such a status.")


def _read(tx: Tx, run: str, task: str) -> views.TaskView:
    return views.task_view(tx, actions.find_run(tx, run), task, timezone=timezone(), aging=aging())


def _sentence(view: views.TaskView) -> str:
    if view["why"]:
        return f"{label(view['status'])}, {view['why']}"
    if view["status"] == State.EXECUTING:
        since = local(view["started_at"], users_now())
        return f"{label(view['status'])} on {view['server']} since {since}"
    return label(view["status"]) + (f", {note(view)}" if note(view) else "")


def _drawn(view: views.TaskView) -> Iterator[Part]:
    now = users_now()
    yield f"{view['job']} run {view['run']} / {view['name']}: {_sentence(view)}"
    arguments = [json.dumps(value, ensure_ascii=False) for value in view["args"]]
    arguments += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in view["kwargs"].items()]
    yield f"{view['operation']}({', '.join(arguments)}), group {view['group']}, priority {view['priority']}"
    if view["limits"]:
        yield f"limits: {', '.join(view['limits'])}"
    if view["result"] is not None:
        yield f"result: {json.dumps(view['result'], ensure_ascii=False)}"
    if view["after"]:
        yield ""
        yield Table(
            ("After", "Outcome", "Status", "Met"),
            [
                (
                    one["task"],
                    one["outcome"],
                    label(one["status"]),
                    MET[one["met"]],
                )
                for one in view["after"]
            ],
        )
    if view["history"]:
        yield ""
        yield Table(
            ("Attempt", "Server", "Status", "Started", "Time", "Error"),
            [
                (
                    str(one["attempt"]),
                    one["server"] or "–",
                    label(one["status"]),
                    local(one["started_at"], now),
                    lasted(one, now),
                    first_line(one["error"]),
                )
                for one in view["history"]
            ],
        )
