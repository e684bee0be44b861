"""`batchq run` and `batchq dev`: commands that start the processes of a folder and end them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from batchq import actions, embedded, spec, views
from batchq.cli.context import batch, path_of_app, timezone
from batchq.cli.fields import ADDRESS, SECONDS, SERVER
from batchq.cli.files import FILE, chosen_job, together
from batchq.cli.live import Until, follow
from batchq.cli.output import output_option, print_json, say
from batchq.cli.program import app_option
from batchq.cli.serve import loglevel_option
from batchq.errors import Conflict

if TYPE_CHECKING:
    from batchq.embedded import Embedded
    from batchq.spec import Document

Servers = tuple[tuple[str, int | None], ...]

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
    document = spec.load(file, spec.Sizes.of(batch().settings))
    chosen = chosen_job(document, job, file)
    batch().check_operations(chosen)
    threads = dict(named)
    with _engine(loglevel, quiet=output == "json") as engine:
        batch().check_broker()
        actions.apply(batch().database, document.model_copy(update={"jobs": {}}))
        names = _prepare(document, threads)
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
    document = together({file: spec.load(file, spec.Sizes.of(batch().settings)) for file in files})
    threads = dict(named)
    with _engine(loglevel, quiet=False) as engine:
        if not engine.owner:
            raise Conflict("An engine already runs in this folder. End it first, or use its broker and database.")
        for line in actions.apply(batch().database, document):
            say(line)
        names = _prepare(document, threads, stored=True)
        engine.start(names, console=None if no_console else console)
        say(f"Coordinator and {', '.join(names)} are starting; logs in {engine.home}/logs.")
        if not no_console:
            say(f"Flower: http://{console}")
        say("Stop with Ctrl-C.")
        while True:
            engine.mend()
            time.sleep(0.5)


@contextmanager
def _engine(loglevel: str, *, quiet: bool) -> Iterator[Embedded]:
    tell: Callable[[str], None] = (lambda line: None) if quiet else (lambda line: say(line, err=True))
    # SIGTERM would kill this process at once and leave its children behind; as Ctrl-C it ends them.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with embedded.Embedded(batch(), path_of_app(), loglevel, tell) as engine:
            yield engine
    finally:
        signal.signal(signal.SIGTERM, before)


def _prepare(document: Document, threads: dict[str, int | None], *, stored: bool = False) -> list[str]:
    """Store the servers that are to start, where they are not yet; returns their names."""
    database = batch().database
    for name, number in threads.items():
        actions.ensure_server(database, name, number)
    names = list(threads) or list(document.servers)
    if not names and stored:
        with database.read() as tx:
            names = [server["name"] for server in views.servers(tx)]
    if not names:
        names = list(embedded.DEFAULT_SERVERS)
        for name in names:
            actions.ensure_server(database, name)
    return names


def _watch(engine: Embedded, run: int, timeout: float | None, *, quiet: bool) -> views.RunView:
    """Follow the run to its end; Ctrl-C and a time-out cancel it."""

    def stop() -> bool:
        engine.mend()
        return False

    console = Console(quiet=quiet)
    try:
        view = follow(batch().database, run, console=console, until=Until(timeout, stop), timezone=timezone())
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
    """Keep the engine while other commands in this folder wait for their runs."""
    said = False
    while engine.needed():
        if not said:
            say("The engine goes on while other commands in this folder need it.", err=True)
            said = True
        engine.mend()
        time.sleep(0.2)
