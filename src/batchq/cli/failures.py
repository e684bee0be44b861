"""`batchq task errors`: what went wrong, like errors in one line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime

import click

from batchq import actions, views
from batchq.cli.context import users_now
from batchq.cli.fields import SINCE, TIMES
from batchq.cli.output import Part, Table, local, output_option, watch_option
from batchq.cli.reading import ask, print_view
from batchq.escape import printable

EMPTY = "No attempt failed. `batchq runs list` shows the runs."
NONE_FITS = "No attempt failed there and then. Leave a filter out to see more."


@click.command()
@click.option("--since", type=SINCE, metavar="TIME", help=f"Only failures since {TIMES}.")
@click.option("--job", metavar="NAME", help="Only failures of this job.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@output_option
@watch_option
def errors(since: datetime | None, job: str | None, limit: int, output: str, watch: bool) -> None:
    """List what went wrong: failed attempts, counted by error.

    Errors that differ in numbers, ids and quoted texts alone are one, with … for
    these. An attempt counts also if a later one succeeded. Only the newest 50,000
    failures are counted.
    """
    if job is not None:
        ask(lambda tx: actions.find_job(tx, job))
    empty = EMPTY if since is None and job is None else NONE_FITS
    print_view(
        lambda tx: views.failures(tx, since=since, job=job, limit=limit),
        lambda found: drawn(found, users_now(), empty),
        output=output,
        watch=watch,
    )


def drawn(found: Sequence[views.FailureView], now: datetime, empty: str) -> Iterator[Part]:
    """Failures for people, and the command that prints the log of the newest of the most frequent."""
    rows = [
        (
            str(one["count"]),
            local(one["first_at"], now),
            local(one["last_at"], now),
            _where(one["newest"][0]),
            one["error"] or "no reason given",
        )
        for one in found
    ]
    yield Table(("Count", "First", "Last", "Newest", "Error"), rows, empty=empty, clip=True)
    if found:
        newest = found[0]["newest"][0]
        yield ""
        yield f"batchq task log {newest['run']} {shlex.quote(printable(newest['task']))}"


def _where(attempt: views.FailedAttempt) -> str:
    return f"{attempt['job']} / {attempt['task']}, run {attempt['run']}"
