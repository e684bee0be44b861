"""The checker: holds what the operations wrote down themselves against what the database says.

    python -m support.checker LEDGER DATABASE_URL          in the folder tests; exit code 1 if an invariant was broken

It reads those two and nothing else, knows the rules from `rules.py`, and shares no line with what it judges.

The ledger is a file to which each line is appended in one write, a JSON object. The operations say when they start and
end, on the monotonic clock; whoever plays the test adds what the database does not keep:

    {"event": "start", "at": 7.1, "run": 1, "task": "A", "attempt": 1, "server": "AOS1", "pid": 4711}
    {"event": "end", "at": 7.2, …, "ok": true}       with "refused": true, the database takes nothing of what it said
    {"event": "clock", "at": 1.0, "offset": 1763000000.0}         what the wall clock says beyond the monotonic one
    {"event": "submitted", "at": 2.0, "run": 1, "tasks": {"A": {"retries": 0, "join": "all", …, "after": []}}}
    {"event": "setup", "begun": "…", "done": "…", "servers": {…}, "paused": []}     as `setup_in` has it
    {"event": "canceled", "at": 5.0, "run": 1}                    the cancel was acknowledged
    {"event": "fault", "at": 6.0, "kind": "…", "until": 9.0, "hits": [4711, "AOS1"]}  whom it may have cost an attempt
    {"event": "calm", "at": 8.0}                                  all faults so far are over

Times in the database are those of its wall clock. Of the invariants, 11 is not judged: there is no recurrence yet; 10,
and most of 9, need the journal that `--watch` makes the database keep of every move of a task.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, create_engine, inspect, text

from support.rules import DAY, ENDS, Plan, is_met, judged, openings, serves, verdict

RUN_ENDS = ("success", "error", "canceled")
CUT_OFF = ("lost", "timed_out", "not_started")
# The database has the wall clock, the operations the monotonic one: what two readings of both may differ by.
CLOCK_SECONDS = 0.05
# How long it takes until all processes of the installation show the new time.
JUMP_SECONDS = 1.0
# With a free thread a ready task starts within so many seconds, and so many after a fault (invariant 13).
WITHIN, AFTER_FAULT = 2.0, 20.0
FOREVER = float("inf")
# Rule 6, without what an operator's retry may do.
MOVES = {
    "waiting": {"ready", "didnt_run", "canceled"},
    "ready": {"queued", "executing", "canceled"},
    "queued": {"executing", "ready", "canceled"},
    "executing": {"success", "error", "ready", "canceled"},
}


class Violation(NamedTuple):
    """What broke which invariant, in one sentence."""

    invariant: int
    sentence: str

    def __str__(self) -> str:
        return f"invariant {self.invariant}: {self.sentence}"


# --- the ledger ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One start of an operation, by its own word; `end` and `ok` are None if it never came to its end.

    What it said beside how it ended is `refused` by the database.
    """

    run: int
    task: str
    attempt: int
    server: str
    pid: int
    start: float
    end: float | None = None
    ok: bool | None = None
    refused: bool = False


@dataclass(frozen=True)
class Fault:
    """What was done to the installation, from when to when; `hits` are the pids and servers it may have cost work."""

    kind: str
    at: float
    until: float
    hits: frozenset[int | str]

    def over_by(self, at: float) -> Fault:
        """The same, if it was ended at this time at the latest."""
        return replace(self, until=min(self.until, at))


@dataclass(frozen=True)
class Clocks:
    """The wall clock as a function of the monotonic one: from when on it was ahead by how much."""

    eras: Sequence[tuple[float, float]]

    def monotonic(self, instant: datetime) -> list[float]:
        """All the times at which the wall clock may have shown the instant, the earliest first."""
        times = []
        for number, (begin, offset) in enumerate(self.eras):
            at = instant.timestamp() - offset
            first = begin - JUMP_SECONDS if number else -FOREVER
            last = self.eras[number + 1][0] + JUMP_SECONDS if number + 1 < len(self.eras) else FOREVER
            if first <= at <= last:
                times.append(at)
        return sorted(times or (instant.timestamp() - offset for _, offset in self.eras))

    def earliest(self, instant: datetime) -> float:
        """The first time at which somebody may have read the instant from the wall clock."""
        return self.monotonic(instant)[0] - CLOCK_SECONDS

    def latest(self, instant: datetime) -> float:
        return self.monotonic(instant)[-1] + CLOCK_SECONDS


@dataclass
class Ledger:
    """All that was written down, in the order of the lines; `twice` are starts of an attempt that had started."""

    entries: dict[tuple[int, str, int], Entry] = field(default_factory=dict)
    twice: list[Entry] = field(default_factory=list)
    submitted: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    canceled: dict[int, float] = field(default_factory=dict)
    setups: list[Setup] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    clocks: Clocks = field(default_factory=lambda: Clocks([(0.0, time.time() - time.monotonic())]))

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The ledger in the file; an empty one if nothing was ever written."""
        lines = path.read_text().splitlines() if path.exists() else []
        return cls.of(map(json.loads, lines))

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> Ledger:
        ledger, eras = cls(), []
        for line in lines:
            match line["event"]:
                case "start":
                    ledger._start(line)
                case "end":
                    ledger._end(line)
                case "submitted":
                    ledger.submitted[line["run"]] = line["tasks"]
                case "canceled":
                    ledger.canceled.setdefault(line["run"], line["at"])
                case "setup":
                    ledger.setups.append(Setup.of(line))
                case "fault":
                    until = line.get("until", line["at"])
                    ledger.faults.append(Fault(line["kind"], line["at"], until, frozenset(line.get("hits", ()))))
                case "calm":
                    ledger.faults = [fault.over_by(line["at"]) for fault in ledger.faults]
                case "clock":
                    eras.append((line["at"], line["offset"]))
        if eras:
            ledger.clocks = Clocks(eras)
        return ledger

    def _start(self, line: Mapping[str, Any]) -> None:
        key = line["run"], line["task"], line["attempt"]
        entry = Entry(*key, line["server"], line["pid"], line["at"])
        if key in self.entries:
            self.twice.append(entry)
        else:
            self.entries[key] = entry

    def _end(self, line: Mapping[str, Any]) -> None:
        key = line["run"], line["task"], line["attempt"]
        begun = self.entries[key]
        if begun.pid == line["pid"]:
            end = {"end": line["at"], "ok": line.get("ok"), "refused": line.get("refused", False)}
            self.entries[key] = replace(begun, **end)


# --- servers, groups and windows ----------------------------------------------------------------------------


class Window(NamedTuple):
    """A window as the table has it: `only` is the date of an exception, `days` the weekdays, None = every day."""

    start: clock_time
    end: clock_time
    threads: int
    timezone: str
    days: frozenset[int] | None
    only: date | None


@dataclass(frozen=True)
class Server:
    """What a server was told: threads, groups, windows, whether it may start anything, and an override's end."""

    threads: int
    enabled: bool
    groups: frozenset[str]
    windows: tuple[Window, ...]
    override: tuple[int, datetime] | None = None

    def open_threads(self, at: datetime) -> int:
        """How many tasks it may run at once at the instant (rules 16 to 21, 51)."""
        return self.threads_at(at) if self.enabled else 0

    def threads_at(self, at: datetime) -> int:
        if self.override is not None and at < self.override[1]:
            return self.override[0]
        if not self.windows:
            return self.threads
        most = [0]
        for zone in {window.timezone for window in self.windows}:
            wall = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
            own = [window for window in self.windows if window.timezone == zone]
            there = openings(self.windows, wall.date() - DAY, wall.date())
            most += [each.window.threads for each in there if each.window in own and each.start <= wall < each.end]
            if all(window.only not in (None, wall.date()) for window in self.windows):
                most.append(self.threads)
        return max(most)


@dataclass(frozen=True)
class Setup:
    """Servers and groups as they were from some instant between `begun` and `done` on; without them, from ever."""

    servers: Mapping[str, Server]
    paused: frozenset[str]
    begun: datetime | None = None
    done: datetime | None = None

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Setup:
        """The set-up that `setup_in` has put into plain values."""
        servers = {name: _server(one) for name, one in said["servers"].items()}
        return cls(servers, frozenset(said["paused"]), _instant(said.get("begun")), _instant(said.get("done")))

    def takes(self, name: str, group: str) -> bool:
        """Whether the server may start tasks of the group (rules 11, 12, 29)."""
        bound = {each: server.groups for each, server in self.servers.items()}
        return group not in self.paused and group in serves(bound, name, [group])


def _server(said: Mapping[str, Any]) -> Server:
    windows = tuple(
        Window(
            clock_time.fromisoformat(start),
            clock_time.fromisoformat(end),
            threads,
            zone,
            frozenset(DAYS.index(day) for day in days.split(",")) if days else None,
            date.fromisoformat(only) if only else None,
        )
        for start, end, threads, zone, days, only in said["windows"]
    )
    override = said.get("override")
    overriding = (override[0], datetime.fromisoformat(override[1])) if override else None
    return Server(said["threads"], bool(said["enabled"]), frozenset(said["groups"]), windows, overriding)


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def setup_in(tx: Connection) -> dict[str, Any]:
    """Servers and groups as the database has them now, in values that JSON can hold."""
    servers: dict[str, Any] = {
        row.name: {"id": row.id, "threads": row.threads, "enabled": bool(row.enabled), "groups": [], "windows": []}
        for row in tx.execute(text("SELECT id, name, threads, enabled FROM batchq_server"))
    }
    by_id = {server.pop("id"): server for server in servers.values()}
    for row in tx.execute(text("SELECT server_id, group_name FROM batchq_server_group")):
        by_id[row.server_id]["groups"].append(row.group_name)
    columns = 'server_id, "start", "end", threads, timezone, days, "only"'
    for server, start, end, threads, zone, days, only in tx.execute(text(f"SELECT {columns} FROM batchq_window")):
        by_id[server]["windows"].append([start, end, threads, zone, days, only and str(only)])
    columns = "name, override_threads, override_until"
    for name, threads, until in tx.execute(text(f"SELECT {columns} FROM batchq_server")):
        if until is not None:
            end = datetime.fromisoformat(str(until))
            servers[name]["override"] = [threads, (end if end.tzinfo else end.replace(tzinfo=UTC)).isoformat()]
    paused = tx.execute(text("SELECT name FROM batchq_group WHERE paused")).scalars()
    return {"servers": servers, "paused": sorted(paused)}


# --- the database -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Books:
    """What the database says at one moment; tasks, and of each the attempts by number and the conditions, by id."""

    runs: Mapping[int, Any]
    tasks: Mapping[int, Any]
    attempts: Mapping[int, Mapping[int, Any]]
    conditions: Mapping[int, Sequence[Any]]
    setup: Setup
    servers: Mapping[int, Any]
    moves: Sequence[Any]

    def of(self, run: int) -> dict[str, Any]:
        """The tasks of a run by name."""
        return {task.name: task for task in self.tasks.values() if task.run_id == run}

    def after(self, task: Any) -> Sequence[Any]:
        """Its conditions, which it may share with an earlier task."""
        return self.conditions.get(task.waits_with or task.id, ())


RUN = "id, job, status, open_tasks, started_at, ended_at"
TASK = """id, run_id, name, group_name, retries, ignore_failure, joined, pending, met, impossible, waits_with,
          sharing, status, unsettled, settled_up_to, attempt, server_id, ready_at, claimed_at, ended_at,
          result IS NOT NULL AS has_result"""
ATTEMPT = "task_id, attempt, server, status, reason, claimed_at, ended_at, error"
CONDITION = "task_id, predecessor_id, outcome, handles"
SERVER = "id, name, liveness, started_at"


def read(tx: Connection) -> Books:
    """All that the checker needs to know of the database."""
    attempts: defaultdict[int, dict[int, Any]] = defaultdict(dict)
    for row in _rows(tx, ATTEMPT, "batchq_attempt"):
        attempts[row.task_id][row.attempt] = row
    conditions: defaultdict[int, list[Any]] = defaultdict(list)
    for row in _rows(tx, CONDITION, "batchq_condition"):
        conditions[row.task_id].append(row)
    journal = inspect(tx).has_table(JOURNAL)
    return Books(
        {row.id: row for row in _rows(tx, RUN, "batchq_run")},
        {row.id: row for row in _rows(tx, TASK, "batchq_task")},
        attempts,
        conditions,
        Setup.of(setup_in(tx)),
        {row.id: row for row in _rows(tx, SERVER, "batchq_server")},
        _rows(tx, "number, tx, task, was, now", f"{JOURNAL} ORDER BY number") if journal else [],
    )


class Row:
    """A row by its columns' names, with instants where the database has text."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update({name: _instant(at) if name.endswith("_at") else at for name, at in values.items()})

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def _rows(tx: Connection, columns: str, table: str) -> list[Row]:
    return [Row(row._mapping) for row in tx.execute(text(f"SELECT {columns} FROM {table}"))]


def _instant(value: str | datetime | None) -> datetime | None:
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


JOURNAL = "checker_move"
_WATCH = {
    "postgresql": f"""
        CREATE TABLE {JOURNAL} (number bigserial, tx bigint DEFAULT txid_current(), task bigint, was text, now text);
        CREATE FUNCTION {JOURNAL}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO {JOURNAL} (task, was, now) VALUES (new.id, old.status, new.status); RETURN NULL;
        END $$;
        CREATE TRIGGER {JOURNAL} AFTER UPDATE ON batchq_task FOR EACH ROW
        WHEN (old.status <> new.status) EXECUTE FUNCTION {JOURNAL}()
    """,
    "sqlite": f"""
        CREATE TABLE {JOURNAL} (number INTEGER PRIMARY KEY, tx INTEGER, task INTEGER, was TEXT, now TEXT);
        CREATE TRIGGER {JOURNAL} AFTER UPDATE ON batchq_task WHEN old.status <> new.status BEGIN
            INSERT INTO {JOURNAL} (task, was, now) VALUES (new.id, old.status, new.status)\\;
        END
    """,
}


def watch(tx: Connection) -> None:
    """Make the database keep a journal of every move of a task."""
    kind = tx.dialect.name
    whole = _WATCH[kind]
    for statement in [whole] if kind == "postgresql" else whole.replace("\\;", "\0").split(";"):
        tx.exec_driver_sql(statement.replace("\0", ";"))


# --- the judgement ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """One attempt by the books: `end` is None while it executes."""

    run: int
    task: str
    attempt: int
    group: str
    server: str
    at: datetime
    end: datetime | None


@dataclass(frozen=True)
class Case:
    """Ledger and database side by side."""

    ledger: Ledger
    books: Books

    def plan(self, run: int) -> Plan:
        """The run as it was submitted; by the database where nobody wrote that down."""
        said = self.ledger.submitted.get(run) or self._stored(run)
        after = {name: [tuple(each) for each in task["after"]] for name, task in said.items()}
        ignored = {name for name, task in said.items() if task["ignore_failure"]}
        return Plan(after, {name: task["join"] for name, task in said.items()}, ignored)  # type: ignore[arg-type]

    def _stored(self, run: int) -> dict[str, Any]:
        books = self.books
        return {
            name: {
                "retries": task.retries,
                "join": task.joined,
                "ignore_failure": bool(task.ignore_failure),
                "after": [
                    (books.tasks[each.predecessor_id].name, each.outcome, bool(each.handles))
                    for each in books.after(task)
                ],
            }
            for name, task in books.of(run).items()
        }

    def retries(self, run: int, task: Any) -> int:
        said = self.ledger.submitted.get(run, {}).get(task.name)
        return int(said["retries"] if said else task.retries)

    def attempts(self, task: Any) -> Mapping[int, Any]:
        return self.books.attempts.get(task.id, {})

    def entries(self, run: int, name: str) -> list[Entry]:
        """The starts of a task that are the first of their attempt."""
        found = (entry for entry in self.ledger.entries.values() if (entry.run, entry.task) == (run, name))
        return sorted(found, key=lambda entry: entry.attempt)

    def setups(self, begin: datetime, end: datetime) -> list[Setup]:
        """The set-ups that may have been in force at some time between two instants."""
        said = self.ledger.setups
        if not said:
            return [self.books.setup]
        over = [*(setup.done for setup in said[1:]), None]
        return [
            setup
            for number, (setup, ended) in enumerate(zip(said, over, strict=True))
            if (not number or setup.begun is None or setup.begun <= end) and (ended is None or ended >= begin)
        ]


def judge(ledger: Ledger, books: Books, runs: Collection[int] | None = None, within: float | None = None) -> list:
    """All violations, a sentence each: in these runs, which must have ended (None = in all), and of the servers.

    `within` is how many seconds a ready task may wait beside a free thread; None leaves that aside.
    """
    case = Case(ledger, books)
    found: list[Violation] = []
    chosen = runs if runs is not None else sorted(books.runs.keys() | ledger.submitted.keys())
    by_task: defaultdict[tuple[int, str], list[Entry]] = defaultdict(list)
    for entry in ledger.entries.values():
        by_task[entry.run, entry.task].append(entry)
    for run in chosen:
        if run not in books.runs:
            found.append(Violation(1, f"run {run} was submitted and is not in the books"))
            continue
        found += _run(case, run, {name: by_task[run, name] for name in books.of(run)})
    claims = claims_of(books, chosen)
    found += forbidden(case, claims)
    found += crowded(case, claims_of(books, books.runs))
    found += _twice(ledger, chosen)
    found += _canceled(case, claims)
    found += _journal(books)
    if within is not None:
        found += _waited(case, claims, within)
    return found


def _of_verdict(tasks: Mapping[str, Any]) -> dict[str, str]:
    """The states that a verdict goes by: canceled before it started, a task was not aborted."""
    return {
        name: "didnt_run" if state == "canceled" and not tasks[name].attempt else state
        for name, state in _states(tasks).items()
    }


def _run(case: Case, run: int, written: Mapping[str, list[Entry]]) -> Iterator[Violation]:
    row, tasks, plan = case.books.runs[run], case.books.of(run), case.plan(run)
    if row.status == "canceled" and not tasks:
        return  # its submit died half-way
    if missing := plan.after.keys() - tasks.keys():
        yield Violation(1, f"run {run} lacks {_some(missing)}")
        return
    open_ = {name for name, task in tasks.items() if task.status not in ENDS}
    for name in sorted(open_):
        yield Violation(1, f"{name} of run {run} is still {tasks[name].status}")
    if not open_ and row.status not in RUN_ENDS:
        yield Violation(1, f"run {run} is still {row.status}, though all its tasks have ended")
    ended = not open_ and row.status in RUN_ENDS
    if ended and row.status != "canceled" and row.status != verdict(plan, _of_verdict(tasks)):
        yield Violation(8, f"run {run} is {row.status}, not {verdict(plan, _of_verdict(tasks))}")
    yield from _counters(case, row, tasks)
    for name, task in tasks.items():
        entries = sorted(written[name], key=lambda entry: entry.attempt)
        yield from _ends(case, plan, tasks, task, entries)
        yield from _starts(case, task, entries)
        yield from _outcomes(case, task, entries)
        yield from _too_early(case, plan, tasks, task, entries, written)


def _states(tasks: Mapping[str, Any]) -> dict[str, str]:
    return {name: task.status for name, task in tasks.items()}


def _counters(case: Case, row: Any, tasks: Mapping[str, Any]) -> Iterator[Violation]:
    """Every number in a row is the number of what it counts (invariant 14)."""
    still_open = sum(bool(task.unsettled) or task.status not in ENDS for task in tasks.values())
    if row.open_tasks != still_open:
        yield Violation(14, f"run {row.id} counts {row.open_tasks} open tasks and has {still_open}")
    sharing = Counter(task.waits_with for task in tasks.values())
    for task in tasks.values():
        if task.sharing != sharing[task.id]:
            shown = f"{task.sharing} tasks that share its conditions, not {sharing[task.id]}"
            yield Violation(14, f"{_name(task)} counts {shown}")
        if task.waits_with:
            continue
        states = [_came_true(case, each) for each in case.books.after(task)]
        counted = states.count(None), states.count(True), states.count(False)
        if (task.pending, task.met, task.impossible) != counted and task.status != "canceled":
            numbers = f"{task.pending}, {task.met}, {task.impossible}"
            yield Violation(14, f"{_name(task)} counts {numbers} conditions open, met, impossible, not {counted}")


def _came_true(case: Case, condition: Any) -> bool | None:
    """Whether a condition came true, by the task it waits for; None while that one has not ended and is not settled."""
    end = case.books.tasks[condition.predecessor_id]
    canceled_unstarted = end.status == "canceled" and end.claimed_at is None
    left = end.unsettled and condition.task_id > (end.settled_up_to or 0)
    return None if end.status not in ENDS or canceled_unstarted or left else is_met(condition.outcome, end.status)


def _ends(case: Case, plan: Plan, tasks: Mapping[str, Any], task: Any, entries: Sequence[Entry]) -> Iterator[Violation]:
    """What ended did so as its conditions have it, and what they forbid has no start (invariants 3 and 4)."""
    due = judged(plan, _states(tasks), task.name)
    canceled = case.books.runs[task.run_id].status in ("canceled", "canceling") or task.run_id in case.ledger.canceled
    if task.status in ("success", "error") and due != "ready":
        yield Violation(4 if due == "didnt_run" else 3, f"{_name(task)} is {task.status}; by its conditions: {due}")
    elif task.status == "didnt_run" and entries:
        yield Violation(4, f"{_name(task)} didn't run, and started: {entries[0]}")
    elif task.status == "didnt_run" and due != "didnt_run" and not canceled:
        yield Violation(4, f"{_name(task)} didn't run; by its conditions: {due}")
    elif task.status == "canceled" and not canceled and not task.claimed_at:
        yield Violation(1, f"{_name(task)} is canceled in a run that is not")


def _starts(case: Case, task: Any, entries: Sequence[Entry]) -> Iterator[Violation]:
    """It started no more often than it may (invariant 2)."""
    retries = case.retries(task.run_id, task)
    if max(len(entries), task.attempt) > retries + 1:
        counted = f"{len(entries)} starts and {task.attempt} claims"
        yield Violation(2, f"{_name(task)} has {retries} retries, {counted}")


def _outcomes(case: Case, task: Any, entries: Sequence[Entry]) -> Iterator[Violation]:
    """What the books say of each attempt is what its operation wrote, or that it was lost (invariants 1, 8, 9)."""
    attempts = case.attempts(task)
    executing = task.status == "executing"
    expected = list(range(1, task.attempt + (not executing)))
    if sorted(attempts) != expected:
        yield Violation(8, f"{_name(task)} was claimed {task.attempt} times and has the attempts {sorted(attempts)}")
    written = {entry.attempt: entry for entry in entries}
    unknown = written.keys() - attempts.keys() - ({task.attempt} if executing else set())
    if unknown and task.status != "didnt_run":
        yield Violation(8, f"{_name(task)} started in attempts that are not in the books: {sorted(unknown)}")
    for number, attempt in sorted(attempts.items()):
        yield from _outcome(case, task, number, attempt, written.get(number))


def _outcome(case: Case, task: Any, number: int, attempt: Any, entry: Entry | None) -> Iterator[Violation]:
    who, last = f"attempt {number} of {_name(task)}", number == task.attempt
    if not last and attempt.status == "success":
        yield Violation(9, f"{who} was a success, and another one followed")
    elif (attempt.status == "error") != (attempt.reason is not None):
        yield Violation(8, f"{who} is a {attempt.status} with the reason {attempt.reason}")
    elif last and task.status in ("success", "error") and attempt.status != task.status:
        yield Violation(8, f"{_name(task)} is {task.status}, its last attempt {attempt.status}")
    if cut_off(attempt):
        yield from _explained(case, who, attempt, entry)
    elif entry is None or entry.end is None:
        written = f"began at {entry.start:.3f} and has no end" if entry else "never began"
        yield Violation(1 if attempt.status == "success" else 8, f"{who} is a {attempt.status}, but {written}")
    elif entry.ok is not None and entry.ok != (attempt.status == "success"):
        wrote = "success" if entry.ok else "error"
        yield Violation(8, f"{who} is a {attempt.status}, but its operation wrote {wrote}")
    elif entry.server != attempt.server:
        yield Violation(8, f"{who} ran on {entry.server}, by the books on {attempt.server}")
    elif entry.refused and attempt.status == "error" and not attempt.error:
        yield Violation(8, f"{who} is an error without a reason, though the database refused what it said")
    elif entry.refused and last and task.has_result:
        yield Violation(8, f"{who} has a result, though the database refused what it said")


def _explained(case: Case, who: str, attempt: Any, entry: Entry | None) -> Iterator[Violation]:
    """An attempt is lost only by a fault that hit its process or its server, where faults were written down."""
    if not case.ledger.faults or attempt.reason == "timed_out":
        return
    hit = {attempt.server, entry.pid if entry else None}
    since, until = case.ledger.clocks.earliest(attempt.claimed_at), case.ledger.clocks.latest(attempt.ended_at)
    if not any(fault.hits & hit and fault.at <= until and fault.until >= since for fault in case.ledger.faults):
        yield Violation(8, f"{who} is {attempt.error!r}, and no fault had hit {attempt.server} meanwhile")


def _too_early(
    case: Case,
    plan: Plan,
    tasks: Mapping[str, Any],
    task: Any,
    entries: Sequence[Entry],
    written: Mapping[str, list[Entry]],
) -> Iterator[Violation]:
    """No start came before the end of what it had to wait for: its conditions, and the attempt before (invariant 3)."""
    met = [before for before, outcome, _ in plan.after[task.name] if is_met(outcome, tasks[before].status)]
    ends = [_end_of(case, tasks[before], written[before]) for before in met]
    enough = (min if plan.joins[task.name] == "any" else max)(ends, default=0.0)
    for entry in entries:
        if entry.start < enough:
            yield Violation(3, f"{_name(task)} started {enough - entry.start:.3f} s before what it waits for had ended")
        before = case.attempts(task).get(entry.attempt - 1)
        if before is not None and entry.start < case.ledger.clocks.earliest(before.ended_at):
            yield Violation(3, f"{_name(task)}: attempt {entry.attempt} started before the one before it was over")


def _end_of(case: Case, task: Any, entries: Iterable[Entry]) -> float:
    """The first instant at which others may count on how the task ended."""
    last = case.attempts(task).get(task.attempt)
    if last is None:
        return 0.0
    own = [entry.end or 0.0 for entry in entries if entry.attempt == last.attempt and not cut_off(last)]
    return max(case.ledger.clocks.earliest(last.ended_at), *own, 0.0)


def _twice(ledger: Ledger, runs: Collection[int]) -> Iterator[Violation]:
    for entry in ledger.twice:
        if entry.run in runs:
            first = ledger.entries[entry.run, entry.task, entry.attempt]
            yield Violation(2, f"an attempt started twice: {first}, {entry}")


def _canceled(case: Case, claims: Iterable[Claim]) -> Iterator[Violation]:
    """Nothing was claimed after the cancel of its run was acknowledged (invariant 12)."""
    for claim in claims:
        acknowledged = case.ledger.canceled.get(claim.run)
        if acknowledged is not None and case.ledger.clocks.earliest(claim.at) > acknowledged:
            yield Violation(12, f"{claim} came after the cancel of run {claim.run} was acknowledged")
    for run in case.ledger.canceled:
        if run in case.books.runs and case.books.runs[run].status in ("success", "error"):
            yield Violation(12, f"run {run} ended in {case.books.runs[run].status}, though its cancel was acknowledged")


def _journal(books: Books) -> Iterator[Violation]:
    """Every move is one of rule 6, and what one transaction hands out stands together (invariants 9 and 10)."""
    for move in books.moves:
        if move.now not in MOVES.get(move.was, ()):
            task = books.tasks.get(move.task)
            name = _name(task) if task else f"task {move.task}"
            yield Violation(9, f"{name} went from {move.was} to {move.now}")
    # Whoever hands out holds a lock until its commit.
    handed = [
        move
        for move in books.moves
        if move.was == "ready" and move.now in ("queued", "executing") and move.tx is not None
    ]
    turns = Counter(tx for tx, _ in groupby(move.tx for move in handed))
    for tx, number in turns.items():
        if number > 1:
            yield Violation(10, f"transaction {tx} handed out tickets in {number} turns, others between them")


# --- the servers --------------------------------------------------------------------------------------------


def claims_of(books: Books, runs: Collection[int]) -> list[Claim]:
    """All attempts of the runs, those that execute among them, the oldest first."""
    claims = []
    for task in books.tasks.values():
        if task.run_id in runs:
            for number, attempt in books.attempts.get(task.id, {}).items():
                times = attempt.claimed_at, attempt.ended_at
                claims.append(Claim(task.run_id, task.name, number, task.group_name, attempt.server, *times))
            if task.status == "executing":
                server = books.servers[task.server_id].name
                claims.append(
                    Claim(task.run_id, task.name, task.attempt, task.group_name, server, task.claimed_at, None)
                )
    return sorted(claims, key=lambda claim: claim.at)


def forbidden(case: Case, claims: Sequence[Claim]) -> Iterator[Violation]:
    """Claims outside a window, above the threads, or in a foreign or paused group (invariants 5, 6 and 7)."""
    busy: defaultdict[str, list[Claim]] = defaultdict(list)
    together: defaultdict[tuple[str, datetime], list[Claim]] = defaultdict(list)
    for claim in claims:
        together[claim.server, claim.at].append(claim)
    steady = len(case.ledger.clocks.eras) == 1
    for (server, at), group in together.items():
        busy[server] = [each for each in busy[server] if each.end is None or each.end > at] + group
        for claim in group:
            reasons = [_why_not(each, claim, len(busy[server]) if steady else 0) for each in case.setups(at, at)]
            if all(reasons):
                whys = " and ".join(reason.sentence for reason in reasons if reason)
                yield Violation(next(each.invariant for each in reasons if each), f"{claim} although {whys}")


def _why_not(setup: Setup, claim: Claim, running: int) -> Violation | None:
    server = setup.servers.get(claim.server)
    if server is None:
        return Violation(5, f"there is no server {claim.server}")
    if not setup.takes(claim.server, claim.group):
        groups = "nothing of a paused group" if claim.group in setup.paused else sorted(server.groups) or "the rest"
        return Violation(5, f"{claim.server} takes {groups}")
    threads = server.open_threads(claim.at)
    if not threads:
        return Violation(6, f"{claim.server} was closed at {claim.at}")
    return Violation(7, f"{running} run and {threads} threads are in force") if running > threads else None


def crowded(case: Case, claims: Iterable[Claim]) -> Iterator[Violation]:
    """Starts, by the operations' own clocks, beside more others than threads were in force (invariant 7)."""
    claimed = {(claim.run, claim.task, claim.attempt): claim for claim in claims}
    by_server: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(case.ledger.entries.values(), key=lambda entry: entry.start):
        by_server[entry.server].append(entry)
    for server, own in by_server.items():
        running: list[tuple[float, Entry]] = []
        for entry in own:
            claim = claimed.get((entry.run, entry.task, entry.attempt))
            running = [each for each in running if each[0] > entry.start]
            running.append((_over(case, entry, claim), entry))
            # That it began beside a closed window is said elsewhere.
            if claim is not None and len(running) > (most := max(1, _most(case, claim, entry))):
                others = f"{len(running) - 1} others on {most} threads of {server}"
                yield Violation(7, f"{entry} began beside {others}: {[each for _, each in running[:-1]]}")


def _over(case: Case, entry: Entry, claim: Claim | None) -> float:
    """When the operation was over: by its own word, else when it was killed, else when the database had it as over."""
    if entry.end is not None:
        return max(entry.end, entry.start + 1e-6)
    killed = [fault.at for fault in case.ledger.faults if entry.pid in fault.hits and fault.at >= entry.start]
    stored = case.ledger.clocks.monotonic(claim.end) if claim and claim.end else []
    return min([*killed, *(at - CLOCK_SECONDS for at in stored if at >= entry.start)], default=FOREVER)


def _most(case: Case, claim: Claim, entry: Entry) -> int:
    """The most threads that its server may have had when the attempt was claimed, or by the time it started."""
    instants = [claim.at]
    if len(case.ledger.clocks.eras) == 1:
        offset = case.ledger.clocks.eras[0][1]
        started = datetime.fromtimestamp(entry.start + offset, UTC) + timedelta(seconds=CLOCK_SECONDS)
        instants.append(max(claim.at, started))
    setups = case.setups(instants[0], instants[-1])
    return max(setup.servers[claim.server].threads_at(at) for setup in setups for at in instants)


def _waited(case: Case, claims: Iterable[Claim], within: float) -> Iterator[Violation]:
    """A ready task starts soon when a server that takes it has a thread free all the while (invariant 13)."""
    clocks, books = case.ledger.clocks, case.books
    calm = max((fault.until + AFTER_FAULT for fault in case.ledger.faults), default=-FOREVER)
    lives = {server.name: server.started_at for server in books.servers.values() if server.liveness == "running"}
    up = {name: clocks.latest(at) + AFTER_FAULT for name, at in lives.items() if at}
    known = {(claim.run, claim.task, claim.attempt): claim for claim in claims}
    busy: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in sorted(case.ledger.entries.values(), key=lambda entry: entry.start):
        busy[entry.server].append((entry.start, _over(case, entry, known.get((entry.run, entry.task, entry.attempt)))))
    for task in books.tasks.values():
        entry = case.ledger.entries.get((task.run_id, task.name, task.attempt))
        claim = known.get((task.run_id, task.name, task.attempt))
        if entry is None or claim is None or task.ready_at is None:
            continue
        opened = books.runs[task.run_id].started_at or task.ready_at
        since = max(clocks.latest(task.ready_at), clocks.latest(opened), calm)
        for name, begun in up.items():
            waits = max(since, begun), entry.start
            threads = _always(case, name, task, claim) if waits[1] - waits[0] > within else 0
            idle = _longest_idle(busy[name], threads, *waits) if threads else 0.0
            if idle > within:
                yield Violation(13, f"{_name(task)} waited {idle:.1f} s beside a free thread of {name}")
                break


def _always(case: Case, server: str, task: Any, claim: Claim) -> int:
    """The threads that the server had for this task from when it was ready until it was claimed."""
    instants = min(task.ready_at, claim.at), claim.at
    setups = case.setups(*instants)
    if not all(server in setup.servers and setup.takes(server, task.group_name) for setup in setups):
        return 0
    return min(setup.servers[server].open_threads(at) for setup in setups for at in instants)


def _longest_idle(busy: Iterable[tuple[float, float]], threads: int, begin: float, end: float) -> float:
    """The longest time between two instants in which fewer ran than there were threads."""
    edges = sorted(
        [(begin, 0), (end, 0), *((at, step) for pair in busy for at, step in zip(pair, (1, -1), strict=True))]
    )
    running, since, longest = 0, None, 0.0
    for at, step in edges:
        if since is not None:
            longest = max(longest, min(at, end) - since)
        running += step
        free = running < threads and begin <= at < end
        since = (since if since is not None else at) if free else None
    return longest


def cut_off(attempt: Any) -> bool:
    """Whether the attempt was over before its operation came to an end of its own."""
    return attempt.reason in CUT_OFF


def _name(task: Any) -> str:
    return f"{task.name} of run {task.run_id}"


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


# --- the program --------------------------------------------------------------------------------------------


def report(ledger: Ledger, books: Books, found: Sequence[Violation], most: int = 50) -> str:
    """What was looked at, and what was found."""
    attempts = sum(map(len, books.attempts.values()))
    lost = sum(cut_off(attempt) for rows in books.attempts.values() for attempt in rows.values())
    starts = len(ledger.entries) + len(ledger.twice)
    head = f"{len(books.runs)} runs, {len(books.tasks)} tasks, {attempts} attempts ({lost} cut off), {starts} starts"
    lines = [f"{head}, {len(ledger.faults)} faults: {len(found) or 'no'} violations", *map(str, found[:most])]
    return "\n".join([*lines, *([f"… and {len(found) - most} more"] if len(found) > most else [])])


def main() -> int:
    """Returns 1 if an invariant was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m support.checker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ledger", type=Path, metavar="LEDGER", help="what the operations wrote down")
    parser.add_argument("url", metavar="DATABASE_URL", help="SQLAlchemy's URL of the database")
    parser.add_argument("--watch", action="store_true", help="make the database keep a journal from now on, and end")
    parser.add_argument("--within", type=float, default=WITHIN, help=f"seconds for invariant 13 ({WITHIN:g})")
    given = parser.parse_args()
    engine = create_engine(given.url)
    with engine.begin() as tx:
        if given.watch:
            watch(tx)
            return 0
        books = read(tx)
    ledger = Ledger.read(given.ledger)
    found = judge(ledger, books, within=given.within)
    print(report(ledger, books, found))
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
