"""The common part of commands that change runs: one by its number, or many by filters, with a rehearsal of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import click

from batchq.cli.context import database, forward
from batchq.cli.fields import DURATION, SINCE
from batchq.cli.output import count, label, output_option, print_json, say
from batchq.cli.reading import ask
from batchq.core.states import RunState

if TYPE_CHECKING:
    from batchq.actions.bulk import Verb
    from batchq.views import RunResult

F = TypeVar("F", bound=Callable[..., object])


class Chosen(TypedDict):
    """The values of `run_options`."""

    run: str | None
    job: str | None
    statuses: Sequence[str]
    since: datetime | None
    older_than: timedelta | None
    reason: str | None
    dry_run: bool
    yes: bool
    output: str


REFUSED = 5
NONE_MATCHED = 1


def run_options(command: F) -> F:
    """Give a command the argument RUN, the filters that may stand for it, and the options of `change_options`."""
    options = [
        click.argument("run", required=False),
        click.option("--job", metavar="NAME", help="Instead of RUN: runs of this job."),
        click.option(
            "--status",
            "statuses",
            multiple=True,
            type=click.Choice([state.value for state in RunState]),
            help="Instead of RUN: runs in this state.",
        ),
        click.option(
            "--since", type=SINCE, metavar="WHEN", help="Instead of RUN: those that ended, or were submitted, since."
        ),
        click.option(
            "--older-than", type=DURATION, metavar="DURATION", help="Instead of RUN: those that did so before that."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return change_options(command)


def change_options(command: F) -> F:
    """Give a command `--reason`, `--dry-run`, `--yes` and `-o`."""
    options = [
        click.option("--reason", metavar="TEXT", help="Why; the audit keeps it."),
        click.option("--dry-run", is_flag=True, help="Only say what would happen."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        output_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def carry_out(word: str, **chosen: Unpack[Chosen]) -> None:
    """Take the action of this word on the run, or on each run that the filters mean, and print what came of it.

    Exits with 5 if a run refused it, with 1 if no run was meant, with 2 if many are meant and nobody can be asked.
    """
    from batchq.actions.run import VERBS

    take(VERBS[word], **chosen)


def take(verb: Verb, **chosen: Unpack[Chosen]) -> None:
    """Take the action, as `carry_out` does."""
    from batchq.actions import bulk

    dry_run = chosen["dry_run"]
    if (chosen["run"] is None) != _filters(chosen):
        raise click.UsageError("Name one RUN, or choose runs by --job, --status, --since and --older-than.")
    if chosen["run"] is not None:
        results = [bulk.act(database(), chosen["run"], verb, chosen["reason"], dry_run=dry_run)]
    else:
        results = _in_bulk(verb, chosen)
    if not dry_run and any(result["refused"] is None for result in results):
        forward()
    _show(results, verb, chosen)


def _filters(chosen: Chosen) -> bool:
    """Whether filters choose the runs."""
    given = (chosen["job"], chosen["since"], chosen["older_than"])
    return bool(chosen["statuses"]) or any(each is not None for each in given)


def _in_bulk(verb: Verb, chosen: Chosen) -> list[RunResult]:
    from batchq.actions import bulk

    age, before = chosen["older_than"], None
    if age is not None:
        before = ask(lambda tx: tx.now()) - age
    wanted = bulk.RunFilter(chosen["job"], chosen["statuses"], chosen["since"], before)
    runs = bulk.matching(database(), wanted, verb)
    if runs and not (chosen["dry_run"] or chosen["yes"]):
        _confirm(verb.word, len(runs))
    return bulk.each(database(), runs, verb, chosen["reason"], dry_run=chosen["dry_run"])


def may_ask() -> bool:
    """Whether somebody sits at a terminal."""
    return sys.stdin.isatty()


def _confirm(word: str, runs: int) -> None:
    """Ask on a terminal whether so many runs are meant; elsewhere nobody answers, so `--yes` is needed."""
    if not may_ask():
        raise click.UsageError(f"This would {word} {count(runs, 'run')}. Add --yes, or try --dry-run first.")
    click.confirm(f"This will {word} {count(runs, 'run')}. Go on?", abort=True, err=True)


def _show(results: Sequence[RunResult], verb: Verb, chosen: Chosen) -> None:
    if chosen["output"] == "json":
        print_json(results if chosen["run"] is None else results[0])
    else:
        for result in results:
            _say(result, chosen["dry_run"])
    if not results:
        say(f"There is no such run to {verb.word}.", err=True)
        raise click.exceptions.Exit(NONE_MATCHED)
    if any(result["refused"] is not None for result in results) and not chosen["dry_run"]:
        raise click.exceptions.Exit(REFUSED)


def print_result(result: RunResult, *, dry_run: bool, output: str) -> None:
    """Hand out what an action has freed, and print what came of it."""
    if not dry_run:
        forward()
    if output == "json":
        print_json(result)
    else:
        _say(result, dry_run)


def _say(result: RunResult, dry_run: bool) -> None:
    say(_said(result, dry_run), err=result["refused"] is not None)


# The words for the tasks that have not started, by action.
TASKS = {
    "hold": "tasks that wait: {}",
    "release": "tasks that go on: {}",
    "cancel": "tasks canceled: {}",
    "retry": "tasks reset: {}",
    "accept": "tasks reset: {}",
}
# Actions that executing tasks do not care about.
GO_ON = ("retry", "accept")


def _said(result: RunResult, dry_run: bool) -> str:
    """A sentence for people: how the run stands now, or would stand."""
    if result["refused"] is not None:
        return result["refused"]
    stands = f"{label(result['status'])}{', held' if result['held'] else ''}"
    executing = result["executing"]
    rest = f", {executing} executing {'finish' if executing > 1 else 'finishes'} first" if executing else ""
    if result["action"] in GO_ON:
        rest = ""
    tasks = TASKS[result["action"]].format(result["tasks"])
    would = f"would {result['action']}" if dry_run else stands
    return f"Run {result['run']} of {result['job']}: {would}; {tasks}{rest}."
