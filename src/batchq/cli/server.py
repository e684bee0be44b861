"""`batchq server`: list, show, set, drain and delete batch servers, and bind them to groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from datetime import time as clock_time
from typing import TYPE_CHECKING

import click

from batchq import actions, views
from batchq.cli import override as overriding
from batchq.cli.context import TIMED_OUT, batch, database, forward, users_now
from batchq.cli.fields import FORM, SECONDS, WINDOW
from batchq.cli.output import Part, Table, count, local, output_option, say, watch_option
from batchq.cli.reading import ask, print_view
from batchq.core.why import local as local_in

if TYPE_CHECKING:
    from batchq.core.windows import Window

POLL_SECONDS = 0.2
TASKS_SHOWN = 5


@click.command("list")
@output_option
@watch_option
def list_(output: str, watch: bool) -> None:
    """List the servers: state, threads, groups, next change."""
    print_view(views.servers, _listed, output=output, watch=watch)


def _listed(servers: Sequence[views.ServerView]) -> Iterator[Part]:
    yield servers_table(servers)
    yield from overriding.lines(servers)


@click.command()
@click.argument("name")
@output_option
def show(name: str, output: str) -> None:
    """Show a server with its windows and the worker that carries its name."""
    print_view(lambda tx: views.server_view(tx, name), _drawn, output=output)


@click.command("set")
@click.argument("name")
@click.option("--threads", type=click.IntRange(min=0), metavar="N", help="Tasks at once, where no window says it.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME",
    help="Take this group; all of --group are the new set.",
)
@click.option("--no-groups", is_flag=True, help="Take the default group and whatever nobody is bound to.")
@click.option("--enable/--disable", "enabled", default=None, help="Whether it may start anything.")
@click.option(
    "--window",
    "windows",
    multiple=True,
    type=WINDOW,
    metavar="WINDOW",
    help=f"As {FORM}; all are the new set.",
)
@click.option("--no-windows", is_flag=True, help="Open round the clock.")
@click.option(
    "--until",
    type=overriding.UNTIL,
    metavar="TIME",
    help="With --threads: so many until then, whatever its windows say. HH:MM, an instant, or now to end that.",
)
@click.option("--reason", metavar="TEXT", help="Why, with --until.")
def set_(
    name: str,
    threads: int | None,
    groups: tuple[str, ...],
    no_groups: bool,
    enabled: bool | None,
    windows: tuple[Window, ...],
    no_windows: bool,
    until: clock_time | datetime | str | None,
    reason: str | None,
) -> None:
    """Set what is true of a server; it is in force within two seconds, without a restart.

    \b
    batchq server set AOS2 --threads 10 --until 07:30 --reason "month end"
    batchq server set AOS2 --until now
    """
    others = groups or no_groups or windows or no_windows or enabled is not None
    if until is not None or reason is not None:
        _override(name, threads, until, reason, alone=not others)
        return
    if (groups and no_groups) or (windows and no_windows):
        raise click.UsageError("--no-groups goes without --group, and --no-windows without --window.")
    if threads is None and enabled is None and not (groups or no_groups or windows or no_windows):
        raise click.UsageError("Nothing to set. Give at least one option; --help lists them.")
    changed = actions.set_server(
        database(),
        name,
        threads=threads,
        enabled=enabled,
        groups=groups if groups or no_groups else None,
        windows=windows if windows or no_windows else None,
        ahead=_ahead(),
    )
    done(name, changed)


def _override(
    name: str, threads: int | None, until: clock_time | datetime | str | None, reason: str | None, *, alone: bool
) -> None:
    """Set an override, or end it (rule 51)."""
    if until is None:
        raise click.UsageError("--reason goes with --until.")
    if not alone or (until == overriding.NOW and (threads, reason) != (None, None)):
        given = "--until now goes alone" if until == overriding.NOW else "--until goes with --threads and --reason"
        raise click.UsageError(f"{given}. Set the other options by a command of their own.")
    settings = batch().settings
    if isinstance(until, str):
        changed = actions.end_override(database(), name, timezone=settings.timezone, ahead=_ahead())
    elif threads is None:
        raise click.UsageError("--until goes with --threads: how many until then; 0 closes the server.")
    else:
        changed = actions.override_server(
            database(), name, threads, until, reason=reason or "", timezone=settings.timezone, ahead=_ahead()
        )
    done(name, changed)


def _groups_command(word: str, sentence: str) -> click.Command:
    """A command that changes the bindings of a server to groups, by the action of its name."""

    @click.command(word, help=sentence)
    @click.argument("name")
    @click.argument("names", nargs=-1, required=True, metavar="GROUP...")
    def command(name: str, names: tuple[str, ...]) -> None:
        act: Callable[..., Collection[str]] = getattr(actions, f"{word}_groups")
        view = done(name, act(database(), name, names, ahead=_ahead()))
        say(f"{name} takes {_taken(view)}")

    return command


add_groups = _groups_command("add", "Bind a server to these groups too.")
remove_groups = _groups_command("remove", "End the bindings of a server to these groups.")
set_groups = _groups_command("set", "Bind a server to these groups and no others.")


@click.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let a server start tasks."""
    done(name, actions.enable(database(), name, ahead=_ahead()))


@click.command()
@click.argument("name")
def disable(name: str) -> None:
    """Let a server start nothing more; what it executes finishes."""
    done(name, actions.disable(database(), name, ahead=_ahead()))


@click.command()
@click.argument("name")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Wait so long at most, else exit 124.")
def drain(name: str, timeout: float | None) -> None:
    """Disable a server and wait until nothing runs on it.

    Interrupted, or timed out, it stays disabled.
    """
    done(name, actions.disable(database(), name, ahead=_ahead()))
    try:
        left = _wait_until_idle(name, timeout)
    except KeyboardInterrupt:
        say(f"\n{name} stays disabled. `batchq server enable {name}` lets it start tasks again.", err=True)
        raise
    if left:
        say(f"{count(left, 'task')} still executing on {name}; it stays disabled.", err=True)
        raise click.exceptions.Exit(TIMED_OUT)
    say(f"{name} is idle.")


def _wait_until_idle(name: str, timeout: float | None) -> int:
    """Name the tasks on the server, at every change, until none is left or time is up; returns how many are left."""
    began, said = time.monotonic(), None
    while True:
        running = ask(lambda tx: views.executing(tx, name))
        if running and running != said:
            say(_waits_for(running))
        late = timeout is not None and time.monotonic() - began >= timeout
        if not running or late:
            return len(running)
        said = running
        time.sleep(POLL_SECONDS)


def _waits_for(running: Sequence[views.ExecutingView]) -> str:
    now = users_now()
    named = [f"{one['job']} run {one['run']} / {one['task']} since {local(one['started_at'], now)}" for one in running]
    if len(named) > TASKS_SHOWN:
        named[TASKS_SHOWN - 1 :] = [f"{len(named) - TASKS_SHOWN + 1} more"]
    return f"waits for {', '.join(named)}"


@click.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a server that is stopped or lost, with its bindings and windows.

    What it ran keeps its name.
    """
    for line in actions.delete_server(database(), name, ahead=_ahead()):
        say(line)
    forward()


def _ahead() -> int:
    return batch().settings.tickets_ahead


def done(name: str, changed: Collection[str]) -> views.ServerView:
    """Print the changes, hand out the tasks they freed, and say how the server stands; returns its view."""
    for line in changed or [f"Server {name} is so already."]:
        say(line)
    forward()
    view = ask(lambda tx: views.server_view(tx, name))
    change = f"; {_next_change(view)}" if view["next_change"] else ""
    say(f"{_standing(view)}{change}")
    return view


def servers_table(servers: Sequence[views.ServerView]) -> Table:
    """Servers for people."""
    now = users_now()
    rows = [
        (
            server["name"],
            server["state"],
            f"{server['busy']}/{server['threads']}",
            ", ".join(server["groups"]) or "–",
            _change(server, now),
            f"{server['host']}:{server['pid']}" if server["state"] != "stopped" else "–",
        )
        for server in servers
    ]
    columns = ("Server", "State", "Busy", "Groups", "Next change", "Process")
    return Table(columns, rows, empty="No servers. `batchq server start NAME` starts one.")


def _change(server: views.ServerView, now: datetime) -> str:
    change = server["next_change"]
    return f"{count(change['threads'], 'thread')} from {local(change['at'], now)}" if change else "–"


def _standing(view: views.ServerView) -> str:
    disabled = "" if view["enabled"] or view["state"] == "disabled" else " and disabled"
    return f"{view['name']}: {view['state']}{disabled}, {view['busy']} of {count(view['threads'], 'thread')} busy"


def _next_change(view: views.ServerView) -> str:
    """The next change of its threads, in the zone of the window that decides."""
    change = view["next_change"]
    if change is None:
        return "none"
    by_override = view["override"] is not None and view["override"]["until"] == change["at"]
    zone = overriding.told_zone() if by_override else change["timezone"]
    at = local_in(datetime.fromisoformat(change["at"]), zone, users_now())
    return f"{count(change['threads'], 'thread')} from {at}"


def _taken(view: views.ServerView) -> str:
    return " and ".join(view["groups"]) or "the default group and those to which no server is bound"


def _drawn(view: views.ServerView) -> Iterator[Part]:
    yield _standing(view)
    yield f"takes        {_taken(view)}"
    if view["override"] is not None:
        yield f"override     {overriding.words(view['override'])}"
    yield f"next change  {_next_change(view)}"
    if view["state"] != "stopped":
        pool = f", {view['pool_kind']} pool" if view["pool_kind"] else ""
        yield f"process      {view['host']}:{view['pid']} since {local(view['started_at'], users_now())}{pool}"
    if all(one["date"] for one in view["windows"]):
        days = " on days without a window" if view["windows"] else ""
        yield f"threads      {view['threads_without_windows']} round the clock{days}"
    if view["windows"]:
        yield ""
        yield windows_table(view["windows"])


def windows_table(windows: Sequence[views.WindowView]) -> Table:
    """Windows for people."""
    rows = [(str(one["number"]), one["window"], _note(one)) for one in windows]
    return Table(("No.", "Window", "Note"), rows, empty="No windows: open round the clock.")


def _note(window: views.WindowView) -> str:
    if window["in_force"]:
        return "in force"
    return "day off" if window["date"] and not window["threads"] else ""
