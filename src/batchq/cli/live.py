"""A run as it goes: a table that redraws itself on a terminal, elsewhere a line for each change."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from batchq import views
from batchq.cli.output import counted, duration, first_line, instant, label, lasted, local, now_in, styled
from batchq.core.states import NOT_STARTED, RUN_ENDED, TERMINAL, State
from batchq.escape import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from batchq.store.database import Database
    from batchq.views import RunView, TaskLine

POLL_SECONDS = 0.2
# A wait is 4 times as long as the read before it, or a run of 100,000 tasks would keep the database busy.
POLL_SHARE = 4
FAILURES_SHOWN = 10
NAME_WIDTH = 40  # of a line for a change
AROUND = 4  # lines of a screen that are no tasks
# A screen too small for all tasks shows the lowest numbers first.
URGENCY = {State.EXECUTING: 0, State.ERROR: 1, State.QUEUED: 2, State.READY: 2, State.WAITING: 3}
LEAST_URGENT = 4


@dataclass(frozen=True, slots=True)
class Until:
    """When to stop watching an open run: after `timeout` seconds, or once `stop()` is true.

    `pause` sleeps for the given seconds between two looks.
    """

    timeout: float | None = None
    stop: Callable[[], bool] = lambda: False
    pause: Callable[[float], None] = time.sleep


# Watch the run to its end.
ITS_END = Until()


def follow(
    database: Database, run_id: int, *, console: Console, until: Until = ITS_END, timezone: str | None = None
) -> RunView:
    """Show a run until it ends or `until` stops the watch; then sum it up.

    Times are shown in `timezone`, an IANA name, or in the machine's zone. Returns the run as it then stands
    (`views.run_view`); its status is still open if `until` stopped the watch. Raises NotFound.
    """
    began = time.monotonic()
    with _shown(console) as show:
        while True:
            reads = time.monotonic()
            with database.read() as tx:
                view = views.run_view(tx, run_id, timezone=timezone, results=False)
            show(view, now_in(timezone))
            late = until.timeout is not None and time.monotonic() - began >= until.timeout
            if view["status"] in RUN_ENDED or late or until.stop():
                break
            until.pause(max(POLL_SECONDS, POLL_SHARE * (time.monotonic() - reads)))
    for line in summary(view, now_in(timezone)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    with database.read() as tx:
        return views.run_view(tx, run_id, timezone=timezone)


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[RunView, datetime], None]]:
    """A function that shows a view at an instant: redrawn in place on a terminal, else a line for each change."""
    if not console.is_terminal:
        yield Lines(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda view, now: live.update(frame(view, *console.size, now), refresh=True)


# --- lines --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """A task as the last view had it, and whether the line that it is ready was written."""

    status: str = State.WAITING.value
    attempts: int = 0
    told_ready: bool = False


class Lines:
    """Writes a line for each change since the view before: `12:00:01 TASK 2  executing  on Batch1`."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._seen: dict[str, Seen] = {}

    def __call__(self, view: RunView, now: datetime) -> None:
        width = min(max((len(task["name"]) for task in view["tasks"]), default=0), NAME_WIDTH)
        events = [event for task in view["tasks"] for event in self._events(task, now)]
        for at, name, word, note in sorted(events, key=lambda event: event[0]):
            line = f"{local(at, now)} {printable(name):<{width}}  {word.lower():<10}  {printable(note)}"
            self._write(line.rstrip())

    def _events(self, task: TaskLine, now: datetime) -> Iterator[tuple[str, str, str, str]]:
        """The task's changes as (instant, name, word, note); a start too that came and went between two views."""
        name, status, before = task["name"], task["status"], self._seen.get(task["name"], Seen())
        if task["attempts"] > before.attempts and task["started_at"]:
            yield task["started_at"], name, label("executing"), f"on {task['server']}"
        # Most tasks are ready for a blink only: a line for each would bury those that wait, or are tried again.
        ready = status == State.READY and (before.status == State.READY or bool(task["error"]))
        ended = status in TERMINAL and status != before.status
        if ended or (ready and not before.told_ready):
            at = task["ended_at"] or now.isoformat(timespec="microseconds")
            yield at, name, label(status), note(task)
        self._seen[name] = Seen(status, task["attempts"], ready)


def note(task: TaskLine) -> str:
    """The reason that a task waits or didn't run, or its error."""
    if task["handled_by"]:
        return f"{first_line(task['error'])} (handled by {task['handled_by']})".lstrip()
    if task["why"] and task["error"]:
        return f"{task['why']}, after {first_line(task['error'])}"
    return task["why"] or first_line(task["error"])


# --- frames -------------------------------------------------------------------------------------------------


def frame(view: RunView, width: int, height: int, now: datetime) -> RenderableType:
    """The run on a screen of this size: its state, a progress bar, and as many tasks as fit."""
    from rich.console import Group
    from rich.text import Text

    shown, hidden = fitting(view["tasks"], height - AROUND)
    parts: list[RenderableType] = [_headline(view, now), _bar(view, width), _rows(shown, width, now)]
    if hidden:
        numbers = Counter(task["status"] for task in hidden)
        parts.append(Text(f"… and {len(hidden)} more: {counted(numbers)}", style="dim", no_wrap=True))
    return Group(*parts)


def fitting(tasks: Sequence[TaskLine], room: int) -> tuple[list[TaskLine], list[TaskLine]]:
    """The most urgent tasks, at most `room`, and the other tasks; both in the job's order."""
    if len(tasks) <= room:
        return list(tasks), []
    urgency = [URGENCY.get(State(task["status"]), LEAST_URGENT) for task in tasks]
    chosen = set(sorted(range(len(tasks)), key=lambda at: (urgency[at], at))[: max(room - 1, 1)])
    split: tuple[list[TaskLine], list[TaskLine]] = [], []
    for at, task in enumerate(tasks):
        split[at not in chosen].append(task)
    return split


def _headline(view: RunView, now: datetime) -> RenderableType:
    from rich.text import Text

    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(printable(view["job"]), style="bold")
    head.append(f"  run {view['run']}  ")
    head.append_text(styled(label(view["status"])))
    return head.append(f"  {lasted(view, now)}", style="dim")


def _bar(view: RunView, width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    through = sum(task["status"] in TERMINAL for task in view["tasks"])
    total = len(view["tasks"])
    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(total=max(total, 1), completed=through, width=width // 2), f"{through} of {total} tasks")
    return line


def _rows(tasks: Sequence[TaskLine], width: int, now: datetime) -> RenderableType:
    """A line for each task; its note gets the width that the short columns leave."""
    from rich.table import Table

    rows = [
        [
            printable(cell)
            for cell in (task["name"], label(task["status"]), task["server"] or "", _time(task, now), note(task))
        ]
        for task in tasks
    ]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    most = (max(width // 3, 8), 10, 16, 12)
    for at, (title, limit) in enumerate(zip(("Task", "Status", "Server", "Time"), most, strict=True)):
        wanted = max(len(row[at]) for row in [["Task", "Status", "Server", "Time"], *rows])
        grid.add_column(title, no_wrap=True, overflow="ellipsis", width=min(wanted, limit))
    grid.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        grid.add_row(*map(styled, row))
    return grid


def _time(task: TaskLine, now: datetime) -> str:
    if task["started_at"]:
        return lasted(task, now)
    since = instant(task["ready_at"])
    waits = task["status"] in NOT_STARTED and since is not None
    return duration((now - since).total_seconds()) if waits and since else ""


# --- the end ------------------------------------------------------------------------------------------------


def summary(view: RunView, now: datetime) -> Iterator[str]:
    """The end of the run: verdict, duration, counts, and each failed task with the command that prints its log."""
    numbers: Mapping[str, int] = Counter(task["status"] for task in view["tasks"])
    in_order = {state.value: numbers[state.value] for state in State if numbers[state.value]}
    ended = view["status"] in RUN_ENDED
    verdict = label(view["status"]) if ended else f"still {label(view['status'])}"
    name = f"{printable(view['job'])} run {view['run']}"
    yield f"{name}: {verdict} after {lasted(view, now)} ({counted(in_order)})"
    failed = [task for task in view["tasks"] if task["status"] == State.ERROR]
    for task in failed[:FAILURES_SHOWN]:
        yield f"{printable(task['name'])} failed: {printable(note(task)) or 'no reason given'}"
        yield f"  batchq task log {view['run']} {shlex.quote(printable(task['name']))}"
    if len(failed) > FAILURES_SHOWN:
        yield f"{len(failed) - FAILURES_SHOWN} more failed: batchq task list {view['run']} --status error"
