"""`batchq coordinator` and `batchq server start`: commands that are a process until they are told to stop.

Such a process stays in memory for weeks, so this module imports nothing that only other commands need.
"""

from __future__ import annotations

import click

from batchq import actions
from batchq.cli.context import batch, database
from batchq.cli.fields import NAME
from batchq.cli.output import F, say
from batchq.cli.program import app_option
from batchq.cli.wording import told
from batchq.server.options import UNFIT, refuse

LEVELS = click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False)

loglevel_option = click.option(
    "--loglevel", type=LEVELS, default="INFO", show_default=True, help="How much the processes log."
)


@click.command()
@app_option
@click.option("--loglevel", type=LEVELS, default="WARNING", show_default=True, help="How much it logs.")
def coordinator(loglevel: str) -> None:
    """Be a coordinator until told to stop; as many as you like may run."""
    database()  # upgrades our own file
    raise click.exceptions.Exit(batch().coordinate(loglevel=loglevel))


def unfit_options(command: F) -> F:
    """Accept the options of `celery worker` that a batch server cannot follow, only to say so."""
    for name, unfit in UNFIT.items():
        command = click.option(
            *unfit.flags,
            name,
            is_flag=unfit.is_flag,
            default=None,
            hidden=True,
            expose_value=False,
            callback=_warn,
            help=f"Not for a batch server: {told(unfit.said('NAME')).partition(': ')[2]}",
        )(command)
    return command


def _warn(ctx: click.Context, param: click.Parameter, value: object) -> None:
    for warning in refuse("NAME", [param.name or ""] if value not in (None, False) else []):
        say(f"Warning: {told(warning)}", err=True)


@click.command()
@click.argument("name", type=NAME)
@click.option(
    "--threads",
    type=click.IntRange(min=0),
    metavar="N",
    help="Set the server's threads first, as `server set` does.",
)
@click.option(
    "-P",
    "--pool",
    type=click.Choice(["prefork", "threads"]),
    default="prefork",
    show_default=True,
    help="Celery's pool.",
)
@click.option("--no-events", is_flag=True, help="Send no task events: Flower shows nothing, work is a little faster.")
@unfit_options
@app_option
@loglevel_option
def start(name: str, threads: int | None, pool: str, no_events: bool, loglevel: str) -> None:
    """Be the batch server NAME until told to stop.

    It takes what its groups, threads and windows allow, as `batchq server show NAME` says.
    Refused with exit code 5 while another process carries the name.
    """
    database()  # upgrades our own file
    if threads is not None:
        from batchq.server.life import refuse_twice  # it takes SQL along, which no `--help` should wait for

        refuse_twice(batch().database, name)
        actions.ensure_server(batch().database, name, threads)
    raise click.exceptions.Exit(batch().serve(name, pool=pool, loglevel=loglevel, events=not no_events))
