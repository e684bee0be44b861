"""Every sentence that says why a task waits, has not started or didn't run (rule 40)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from batchq.core.conditions import After, Condition, Join, Joined, Node, leaves, resolution, resolved
from batchq.core.override import Override
from batchq.core.states import Outcome, State
from batchq.core.topology import Server, Topology
from batchq.core.windows import Window, covering, format_time, threads_at, zone

_WANTED = {
    Outcome.SUCCESS: "to succeed",
    Outcome.ERROR: "to fail",
    Outcome.FINISHED: "to finish",
    Outcome.OVER: "to be over",
}
_MISSED = {
    (Outcome.SUCCESS, State.ERROR): "failed",
    (Outcome.ERROR, State.SUCCESS): "did not fail",
    (Outcome.SKIPPED, State.SUCCESS): "ran",
    (Outcome.SKIPPED, State.ERROR): "ran",
    **{(outcome, State.DIDNT_RUN): "didn't run" for outcome in Outcome},
    **{(outcome, State.CANCELED): "was aborted" for outcome in Outcome},
}
_FOR = "for "


def storing(stored: int, tasks: int) -> str:
    """A clause for a task of a run that is not wholly there yet (rules 24, 40)."""
    return f"is being stored: {stored:,} of {tasks:,} tasks"


def held(run: int, by: str | None, at: str | None, reason: str | None) -> str:
    """A clause for a task of a held run: `run 12 is held (by olav, 14:02 Europe/Oslo: 'month end')` (rules 33, 40)."""
    return f"run {run} is held{_origin(by, at, reason)}"


def withheld(by: str | None, at: str | None, reason: str | None) -> str:
    """A clause for a job of which no run starts: `withheld (by olav, 14:02 UTC: 'month end')` (rules 33, 40)."""
    return f"withheld{_origin(by, at, reason)}"


def _origin(by: str | None, at: str | None, reason: str | None) -> str:
    who = ", ".join(filter(None, [f"by {by}" if by else None, at]))
    said = ": ".join(filter(None, [who, f"'{reason}'" if reason else None]))
    return f" ({said})" if said else ""


def delayed(attempt: int, until: str) -> str:
    """A clause for a task that waits for its next attempt (rules 30, 40)."""
    return f"attempt {attempt} failed; the next one not before {until}"


def waits_for(node: Node, states: Mapping[str, State]) -> str:
    """A clause for a waiting task: `waits for TASK 2 to succeed and TASK 3 to finish` (rule 40)."""
    opened, join = _opened(node.after, node.join, states)
    return f"waits {_clauses(opened, join, states)}" if opened else "is about to start"


def _opened(after: After, join: Join, states: Mapping[str, State]) -> tuple[After, Join]:
    """The open conditions; of a join that is the only one, those within it."""
    opened = tuple(each for each in after if resolved(each, states) is None)
    if len(opened) == 1 and isinstance(opened[0], Joined):
        return _opened(opened[0].conditions, opened[0].join, states)
    return opened, join


def _clauses(opened: After, join: Join, states: Mapping[str, State]) -> str:
    """`for A to succeed or to see whether B runs`: a `for` serves all that follow it at once."""
    clauses = [_clause(each, states) for each in opened]
    shown = clauses if len(clauses) <= 3 else [*clauses[:3], f"{len(clauses) - 3} more"]
    parts = [
        clause.removeprefix(_FOR) if number and shown[number - 1].startswith(_FOR) else clause
        for number, clause in enumerate(shown)
    ]
    joint = " or " if join is Join.ANY else " and "
    return joint.join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _clause(condition: Condition | Joined, states: Mapping[str, State]) -> str:
    opened, join = _opened((condition,), Join.ALL, states)
    if len(opened) > 1:
        clauses = _clauses(opened, join, states)
        return f"({clauses})" if "to see whether " in clauses else f"{_FOR}({clauses.removeprefix(_FOR)})"
    (only,) = leaves(opened)
    wanted = _WANTED.get(only.outcome)
    return f"{_FOR}{only.task} {wanted}" if wanted else f"to see whether {only.task} runs"


def why_not(node: Node, states: Mapping[str, State]) -> str:
    """A clause for a task that didn't run: `TASK 3 did not fail` (rules 4, 40)."""
    blocked = [each for each in node.after if resolved(each, states) is False]
    missed = [each for each in leaves(tuple(blocked)) if resolution(each.outcome, states[each.task]) is False]
    clauses = dict.fromkeys(f"{each.task} {_MISSED[each.outcome, states[each.task]]}" for each in missed)
    return " and ".join(list(clauses)[:3]) if clauses else "its conditions can no longer come true"


def why_ready(
    group: str,
    topology: Topology,
    busy: Mapping[int, int],
    now: datetime,
    timezone: str | None = None,
    *,
    lacks: Callable[[], str | None] = lambda: None,
    behind: Callable[[], str | None] = lambda: None,
) -> str:
    """A clause for a ready task that does not start, with the next instant if time decides (rule 40).

    The instant is told in `timezone`, an IANA name. Without one it is told in the zone of the window that opens.
    `lacks` finds the unit that the task lacks, and `behind` the tasks that go first for ever; each is asked only if it
    matters.
    """
    for reason in _reasons(group, topology, busy, now, timezone, lacks, behind):
        return reason
    return "is being handed out"


def _reasons(
    group: str,
    topology: Topology,
    busy: Mapping[int, int],
    now: datetime,
    timezone: str | None,
    lacks: Callable[[], str | None],
    behind: Callable[[], str | None],
) -> Iterator[str]:
    serving = topology.serving(group)
    if group in topology.paused:
        yield f"{group} is paused"
    if not serving:
        yield f"{group}: no server serves this group"
    enabled = [server for server in serving if server.enabled]
    if not enabled:
        yield f"{group}: {names(serving)} {'are' if len(serving) > 1 else 'is'} disabled"
    alive = [server for server in enabled if server.alive]
    if not alive:
        yield f"{group}: {names(enabled)} {'do' if len(enabled) > 1 else 'does'} not run"
    staying = [server for server in alive if server.pool != 0]
    if not staying:
        yield f"{group}: {names(alive)} {'are' if len(alive) > 1 else 'is'} stopping"
    opened = [server for server in staying if server.threads_now(now)]
    if not opened:
        yield f"{group}: {_closed(staying, now, timezone)}"
    if lacking := lacks():
        yield lacking
    full = [server for server in opened if busy.get(server.id, 0) >= server.threads_now(now)]
    if len(full) == len(opened):
        if others := behind():
            yield others
        counts = ", ".join(f"{s.name} {busy[s.id]}/{s.threads_now(now)}" for s in full[:4])
        yield f"{counts}{', …' if len(full) > 4 else ''} threads busy"


def _closed(servers: Sequence[Server], now: datetime, timezone: str | None) -> str:
    openings = [(opening, server) for server in servers if (opening := server.next_opening(now)) is not None]
    if not openings:
        lacks = "window that opens" if all(server.windows for server in servers) else "threads"
        return f"{names(servers)} {'have' if len(servers) > 1 else 'has'} no {lacks}"
    opening, server = min(openings, key=lambda pair: pair[0])
    shut = [f"{each.name} is closed by {words}" for each in servers if (words := _shut(each, now, timezone))]
    if (override := server.overridden(now)) is not None and opening == override.until:
        return " and ".join(shut[:3])
    window = max(covering(server.windows, opening), key=lambda window: window.threads, default=None)
    shown = timezone or (window or next(each for each in server.windows if not each.vanished)).timezone
    until = f"no server has an open window until {local(opening, shown, now)} ({_which(server, window, shown)})"
    return "; ".join([until, *shut[:3]])


def _shut(server: Server, now: datetime, timezone: str | None) -> str | None:
    """Words for the override that closes the server now, if it keeps a thread from work (rule 51)."""
    override = server.overridden(now)
    if override is None or not any(
        threads_at(server.windows, server.threads, instant) for instant in (now, override.until)
    ):
        return None
    return of_override(override, timezone or _zone(server), now)


def _zone(server: Server) -> str:
    """The zone of the server's windows, if it has one that this machine knows."""
    return next((window.timezone for window in server.windows if not window.vanished), "UTC")


def of_override(override: Override, timezone: str, now: datetime) -> str:
    """`an override until 07:30 Europe/Oslo (olav: 'licence')` (rule 51)."""
    if not override.readable:
        return "an override that cannot be read"
    return f"an override until {local(override.until, timezone, now)} ({override.origin})"


def _which(server: Server, window: Window | None, timezone: str) -> str:
    if window is None:  # the end of a day off opens a server that has no other windows
        return f"{server.name} with {_threads(server.threads)}"
    zoned = "" if window.timezone == timezone else f" {window.timezone}"
    return f"{server.name}, {window.span}{zoned} with {_threads(window.threads)}"


def _threads(number: int) -> str:
    return f"{number} thread{'' if number == 1 else 's'}"


def local(instant: datetime, timezone: str, now: datetime) -> str:
    """`18:00 Europe/Oslo`; with its day, `Tue 24 Nov 18:00 Europe/Oslo`, if `now` lies on another one there.

    An instant of another year is told with its year.
    """
    there, here = instant.astimezone(zone(timezone)), now.astimezone(zone(timezone))
    day = "" if there.date() == here.date() else f"{there:%a %d %b} "
    day += f"{there:%Y} " if there.year != here.year else ""
    return f"{day}{format_time(there.time().replace(microsecond=0))} {timezone}"


def names(servers: Sequence[Server]) -> str:
    """`AOS2`, `AOS2 and AOS3`, `AOS1, AOS2 and 3 more`."""
    shown = [server.name for server in servers]
    if len(shown) > 3:
        shown = [*shown[:2], f"{len(shown) - 2} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
