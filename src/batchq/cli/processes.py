"""`batchq run`, `dev` and `coordinator`: commands that start processes and stay until they are told to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchq.cli.context import app_option, batch, limits, path_of_app, timezone
from batchq.cli.fields import ADDRESS, NAME, SECONDS, SERVER
from batchq.cli.files import FILE, chosen_job
from batchq.cli.output import F, output_option, print_json, say
from batchq.server.options import UNFIT, refuse

if TYPE_CHECKING:
    from batchq.embedded import Embedded
    from batchq.spec import Document

Servers = tuple[tuple[str, int | None], ...]

LEVELS = click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False)

loglevel_option = click.option(
    "--loglevel", type=LEVELS, default="INFO", show_default=True, help="How much the processes log."
)
server_option = click.option(
    "--server",
    "named",
    multiple=True,
    type=SERVER,
    metavar="NAME[=THREADS]",
    help="A batch server to start; more than one may be given. Without it those of the file, else Batch1 and Batch2.",
)


@click.command()
@click.argument("file", type=FILE)
@click.option("--job", metavar="NAME", help="Which job, where the file holds several.")
@server_option
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="Cancel and exit with 124 after so long.",
)
@app_option
@loglevel_option
@output_option
def run(file: Path, job: str | None, named: Servers, timeout: float | None, loglevel: str, output: str) -> None:
    """Run the job in FILE here and now, and show it until it ends.

    Starts what is not there: a broker, a database, a coordinator and batch servers as real processes,
    and stops them afterwards. Exits with 0 if the run ends in success, else with 1.
    """
    from batchq import actions, spec

    document = spec.load(file, limits(batch().settings))
    chosen = chosen_job(document, job, file)
    batch().check_operations(chosen)
    threads = dict(named)
    with _engine(loglevel, quiet=output == "json") as engine:
        batch().check_broker()
        actions.apply(batch().database, document.model_copy(update={"jobs": {}}))
        names = _prepare(engine, document, threads)
        engine.start(names)
        number = batch().submit(chosen)
        view = _watch(engine, number, timeout, quiet=output == "json")
        _wait_for_others(engine)
    if output == "json":
        print_json(view)
    if view["status"] not in ("success", "error", "canceled"):
        raise click.exceptions.Exit(124)
    raise click.exceptions.Exit(0 if view["status"] == "success" else 1)


@click.command()
@click.argument("files", type=FILE, nargs=-1, metavar="[FILE...]")
@server_option
@click.option(
    "--console",
    type=ADDRESS,
    default="127.0.0.1:5555",
    show_default=True,
    metavar="HOST:PORT",
    help="Where Flower listens.",
)
@click.option("--no-console", is_flag=True, help="Do not start Flower.")
@app_option
@loglevel_option
def dev(files: tuple[Path, ...], named: Servers, console: str, no_console: bool, loglevel: str) -> None:
    """Start everything in this folder and stay: broker, database, coordinator, batch servers, Flower.

    Groups, servers and jobs of the files are applied first; `batchq submit` in the same folder uses what runs here.
    """
    from batchq import actions, spec
    from batchq.cli.files import together

    document = together({file: spec.load(file, limits(batch().settings)) for file in files})
    threads = dict(named)
    with _engine(loglevel, quiet=False) as engine:
        if not engine.owner:
            from batchq.errors import Conflict

            raise Conflict("An engine already runs in this folder. End it first, or use its broker and database.")
        for line in actions.apply(batch().database, document):
            say(line)
        names = _prepare(engine, document, threads, known=True)
        engine.start(names, console=None if no_console else console)
        say(f"Coordinator and {', '.join(names)} are starting; logs in {engine.home}/logs.")
        if not no_console:
            say(f"Flower: http://{console}")
        say("Stop with Ctrl-C.")
        while True:
            engine.mend()
            time.sleep(0.5)


@click.command()
@app_option
@click.option("--loglevel", type=LEVELS, default="WARNING", show_default=True, help="How much it logs.")
def coordinator(loglevel: str) -> None:
    """Be a coordinator until told to stop; as many as you like may run."""
    _upgrade_own()
    raise click.exceptions.Exit(batch().coordinate(loglevel=loglevel))


def unfit_options(command: F) -> F:
    """Accept the options of `celery worker` that cannot hold, only to say so."""
    for name, unfit in UNFIT.items():
        command = click.option(
            *unfit.flags,
            name,
            is_flag=unfit.is_flag,
            default=None,
            hidden=True,
            expose_value=False,
            callback=_told,
            help=f"Not for a batch server: {unfit.instead.format(name='NAME')}.",
        )(command)
    return command


def _told(ctx: click.Context, param: click.Parameter, value: object) -> None:
    for warning in refuse("NAME", [param.name or ""] if value not in (None, False) else []):
        say(f"Warning: {warning}", err=True)


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
    from batchq import actions
    from batchq.server.life import refuse_twice

    _upgrade_own()
    if threads is not None:
        refuse_twice(batch().database, name)
        actions.ensure_server(batch().database, name, threads)
    raise click.exceptions.Exit(batch().serve(name, pool=pool, loglevel=loglevel, events=not no_events))


def _upgrade_own() -> None:
    from batchq.cli.context import database

    database()


@contextmanager
def _engine(loglevel: str, *, quiet: bool) -> Iterator[Embedded]:
    from batchq.embedded import Embedded

    tell: Callable[[str], None] = (lambda line: None) if quiet else (lambda line: say(line, err=True))
    # Whoever ends it otherwise than by Ctrl-C gets the same orderly end.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Embedded(batch(), path_of_app(), loglevel, tell) as engine:
            yield engine
    finally:
        signal.signal(signal.SIGTERM, before)


def _prepare(engine: Embedded, document: Document, threads: dict[str, int | None], *, known: bool = False) -> list[str]:
    """Make the servers to start exist; returns their names."""
    from batchq import actions, views
    from batchq.embedded import DEFAULT_SERVERS

    database = batch().database
    for name, number in threads.items():
        actions.ensure_server(database, name, number)
    names = list(threads) or list(document.servers)
    if not names and known:
        with database.read() as tx:
            names = [server["name"] for server in views.servers(tx)]
    if not names:
        names = list(DEFAULT_SERVERS)
        for name in names:
            actions.ensure_server(database, name)
    return names


def _watch(engine: Embedded, run: int, timeout: float | None, *, quiet: bool) -> Mapping[str, Any]:
    """Follow the run to its end; Ctrl-C and a time-out cancel it."""
    from rich.console import Console

    from batchq import actions, views
    from batchq.cli.live import follow

    def stop() -> bool:
        engine.mend()
        return False

    console = Console(quiet=quiet)
    try:
        view = follow(batch().database, run, console=console, stop=stop, timeout=timeout, timezone=timezone())
    except KeyboardInterrupt:
        actions.cancel_run(batch().database, run)
        say(f"Run {run} is canceled.", err=True)
        raise
    if view["status"] not in ("success", "error", "canceled"):
        actions.cancel_run(batch().database, run)
        say(f"Run {run} took longer than {timeout:g} s: canceled.", err=True)
    with batch().database.read() as tx:
        full = views.run_view(tx, run)
    return full if view["status"] in ("success", "error", "canceled") else view


def _wait_for_others(engine: Embedded) -> None:
    """The engine goes on while other commands in this folder wait for their runs."""
    said = False
    while engine.needed():
        if not said:
            say("The engine goes on while other commands in this folder need it.", err=True)
            said = True
        engine.mend()
        time.sleep(0.2)
