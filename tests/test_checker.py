"""The checker itself: a story in which all is well, and one doctored copy of it for each way to break an invariant."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlmodel import Session

from batchq.store.tables import (
    AttemptRow,
    Group,
    JobRow,
    Run,
    Server,
    ServerGroup,
    ServerWindow,
    TaskCondition,
    TaskRow,
)
from support import checker

TESTS = Path(__file__).parent
# What the wall clock shows when the monotonic one shows 0.
ZERO = datetime(2026, 3, 2, 10, tzinfo=UTC)
LOST = "lost: its process ended (signal 9 (SIGKILL)) during this attempt; what it did is not known"

Line = dict[str, Any]
Edit = Callable[[list[Line]], None]


def at(seconds: float) -> datetime:
    return ZERO + timedelta(seconds=seconds)


# --- the story ----------------------------------------------------------------------------------------------

# Task, attempt, server, claimed, ended, error; the operation runs a tenth of a second less on either side.
ATTEMPTS = [
    ("A", 1, "AOS1", 1, 3, None),
    ("B", 1, "AOS1", 4, 6, LOST),
    ("B", 2, "AOS1", 7, 9, None),
    ("D", 1, "AOS2", 1, 5, None),
    ("E", 1, "AOS1", 10, 12, "ValueError: no"),
    ("F", 1, "AOS1", 13, 15, None),
    ("G", 1, "AOS1", 20, 24, None),
]
# Run, group, state, retries, join, and the conditions.
TASKS: dict[str, tuple[int, str, str, int, str, list[tuple[str, str, bool]]]] = {
    "A": (1, "default", "success", 0, "all", []),
    "B": (1, "default", "success", 1, "all", [("A", "success", False)]),
    "C": (1, "default", "didnt_run", 0, "all", [("A", "error", False)]),
    "D": (1, "BG1", "success", 0, "all", []),
    "E": (1, "default", "error", 0, "all", []),
    "F": (1, "default", "success", 0, "any", [("E", "finished", False), ("C", "success", False)]),
    "G": (2, "default", "success", 0, "all", []),
    "H": (2, "default", "canceled", 0, "all", [("G", "success", False)]),
}
IDS = {name: number for number, name in enumerate(TASKS, 1)}
READY = {"E": 9.5, "F": 12.0}


def lines() -> list[Line]:
    """What the operations, and whoever played this, wrote down."""
    found: list[Line] = [{"event": "clock", "at": -1.0, "offset": ZERO.timestamp()}]
    for run in (1, 2):
        plan = {
            name: {"retries": retries, "join": join, "ignore_failure": False, "after": after}
            for name, (of, _, _, retries, join, after) in TASKS.items()
            if of == run
        }
        found.append({"event": "submitted", "at": 0.0, "run": run, "tasks": plan})
    for pid, (task, attempt, server, begin, end, error) in enumerate(ATTEMPTS, 100):
        facts = {"run": TASKS[task][0], "task": task, "attempt": attempt, "server": server, "pid": pid}
        found.append({"event": "start", "at": begin + 0.1, **facts})
        if error is LOST:
            found.append({"event": "fault", "at": end - 0.5, "kind": "kill child", "hits": [pid]})
        else:
            found.append({"event": "end", "at": end - 0.1, **facts, "ok": error is None})
    return [*found, {"event": "canceled", "at": 22.0, "run": 2}]


def rows() -> list[Any]:
    """What the database says of the same."""
    day = {"start": "08:00", "end": "18:00", "timezone": "UTC"}
    alive = {"liveness": "running", "started_at": at(-60)}
    job = JobRow(id=1, name="JOB", definition="{}", updated_at=at(0))
    runs = [
        Run(id=1, job_id=1, job="JOB", status="error", open_tasks=0, submitted_at=at(0), started_at=at(0)),
        Run(id=2, job_id=1, job="JOB", status="canceled", open_tasks=0, submitted_at=at(0), started_at=at(0)),
    ]
    servers = [
        Server(id=1, name="AOS1", threads=2, **alive),
        Server(id=2, name="AOS2", threads=1, **alive),
        Server(id=3, name="AOS3", threads=1, enabled=False, liveness="stopped"),
    ]
    bound = [ServerGroup(server_id=2, group_name="BG1"), ServerWindow(id=1, server_id=2, threads=1, **day)]
    attempts = [
        AttemptRow(
            task_id=IDS[task],
            attempt=attempt,
            server=server,
            epoch=1,
            status="error" if error else "success",
            reason={None: None, LOST: "lost"}.get(error, "error"),
            claimed_at=at(begin),
            ended_at=at(end),
            error=error,
        )
        for task, attempt, server, begin, end, error in ATTEMPTS
    ]
    return [job, Group(name="BG1"), *runs, *servers, *bound, *map(task, TASKS), *attempts, *conditions()]


def task(name: str) -> TaskRow:
    run, group, status, retries, join, after = TASKS[name]
    own = [attempt for attempt in ATTEMPTS if attempt[0] == name]
    met = [meets(before, outcome) for before, outcome, _ in after]
    return TaskRow(
        id=IDS[name],
        run_id=run,
        name=name,
        operation="ledger.work",
        args="[]",
        kwargs="{}",
        group_name=group,
        retries=retries,
        joined=join,
        status=status,
        attempt=len(own),
        met=met.count(True),
        impossible=met.count(False),
        server_id=1 if own else None,
        ready_at=at(READY.get(name, own[-1][3])) if own else None,
        claimed_at=at(own[-1][3]) if own else None,
        ended_at=at(own[-1][4] if own else 3),
    )


def conditions() -> list[TaskCondition]:
    return [
        TaskCondition(task_id=IDS[name], predecessor_id=IDS[before], outcome=outcome)
        for name, (*_, after) in TASKS.items()
        for before, outcome, _ in after
    ]


def meets(before: str, outcome: str) -> bool:
    return TASKS[before][2] in ("success", "error") if outcome == "finished" else TASKS[before][2] == outcome


JOURNAL = [("A", "waiting", "ready", 1), ("A", "ready", "queued", 2), ("E", "ready", "queued", 2)]
JOURNAL += [("A", "queued", "executing", 3), ("D", "ready", "queued", 4), ("A", "executing", "success", 5)]


@pytest.fixture
def tx(sqlite_url: str) -> Any:
    engine = create_engine(sqlite_url)
    with Session(engine) as session:
        for row in rows():
            session.add(row)
            session.flush()
        session.commit()
    with engine.begin() as connection:
        checker.watch(connection)
        connection.exec_driver_sql(f"DROP TRIGGER {checker.JOURNAL}")  # what is doctored is no move
        for name, was, now, number in JOURNAL:
            values = {"task": IDS[name], "was": was, "now": now, "tx": number}
            connection.execute(
                text("INSERT INTO checker_move (task, was, now, tx) VALUES (:task, :was, :now, :tx)"), values
            )
        yield connection
    engine.dispose()


def found(tx: Connection, written: list[Line]) -> list[checker.Violation]:
    return checker.judge(checker.Ledger.of(written), checker.read(tx), within=2.0)


# --- the doctors --------------------------------------------------------------------------------------------


def drop(event: str, task: str, number: int = 1) -> Edit:
    """Forget what was written down."""

    def edit(written: list[Line]) -> None:
        written[:] = [each for each in written if not is_of(each, event, task, number)]

    return edit


def put(event: str, task: str, **facts: Any) -> Edit:
    """Let something else be written down of the first attempt."""

    def edit(written: list[Line]) -> None:
        for each in written:
            if is_of(each, event, task, 1):
                each.update(facts)

    return edit


def add(event: str, like: str, number: int = 1, **facts: Any) -> Edit:
    """Write down one more line, like one that is there."""

    def edit(written: list[Line]) -> None:
        written.append(next(each for each in written if is_of(each, event, like, number)) | facts)

    return edit


def no_faults(written: list[Line]) -> None:
    written[:] = [each for each in written if each["event"] != "fault"]


def other_fault(written: list[Line]) -> None:
    for each in written:
        if each["event"] == "fault":
            each["hits"] = [4711]


def early_fault(written: list[Line]) -> None:
    for each in written:
        if each["event"] == "fault":
            each["at"] = 3.0


def early_calm(written: list[Line]) -> None:
    """The fault was to last, and was ended before."""
    early_fault(written)
    for each in written:
        if each["event"] == "fault":
            each["until"] = 6.0
    written.append({"event": "calm", "at": 3.5})


def early_cancel(written: list[Line]) -> None:
    written[-1]["at"] = 19.0


def ran_against(written: list[Line]) -> None:
    for each in written:
        if each["event"] == "submitted" and "B" in each["tasks"]:
            each["tasks"]["B"]["after"] = [("A", "error", False)]


def ended_well(written: list[Line]) -> None:
    begun = next(each for each in written if is_of(each, "start", "B", 1))
    written.append(begun | {"event": "end", "at": 5.0, "ok": True})


def no_end(written: list[Line]) -> None:
    """The run was submitted as one task, so that its verdict follows."""
    for each in written:
        if each["event"] == "submitted" and "H" in each["tasks"]:
            each["tasks"]["H"]["after"] = []


def more_work(written: list[Line]) -> None:
    for each in written:
        if each["event"] == "submitted":
            each["tasks"]["Z"] = {"retries": 0, "join": "all", "ignore_failure": False, "after": []}


def one_more_run(written: list[Line]) -> None:
    written.append({"event": "submitted", "at": 0.0, "run": 3, "tasks": {}})


def is_of(line: Line, event: str, task: str, attempt: int) -> bool:
    return (line["event"], line.get("task"), line.get("attempt")) == (event, task, attempt)


def sets(task: str, what: str) -> str:
    return f"UPDATE batchq_task SET {what} WHERE id = {IDS[task]}"


def attempt(task: str, what: str, number: int = 1) -> str:
    return f"UPDATE batchq_attempt SET {what} WHERE task_id = {IDS[task]} AND attempt = {number}"


def stored(seconds: float) -> str:
    return f"'{at(seconds).replace(tzinfo=None)}'"


def move(task: str, was: str, now: str, tx: int) -> str:
    return f"INSERT INTO checker_move (task, was, now, tx) VALUES ({IDS[task]}, '{was}', '{now}', {tx})"


def forgotten(task: str) -> list[str | Edit]:
    """The task was never claimed, nor did it start."""
    return [
        sets(task, "attempt = 0, claimed_at = NULL"),
        f"DELETE FROM batchq_attempt WHERE task_id = {IDS[task]}",
        drop("start", task),
        drop("end", task),
    ]


def once_more(task: str) -> list[str | Edit]:
    """The attempt was the second one; the first was lost."""
    named = "task_id, attempt, server, epoch, status, reason, claimed_at, ended_at, error, log"
    columns = f"task_id, 1, server, epoch, 'error', 'lost', {stored(9.5)}, {stored(9.6)}, '{LOST}', log"
    return [
        attempt(task, "attempt = 2"),
        f"INSERT INTO batchq_attempt ({named}) SELECT {columns} FROM batchq_attempt WHERE task_id = {IDS[task]}",
        sets(task, "attempt = 2"),
        put("start", task, attempt=2),
        put("end", task, attempt=2),
        no_faults,
    ]


ONE = "UPDATE batchq_server SET threads = 1 WHERE id = 1"
OPEN = "UPDATE batchq_run SET open_tasks = 1 WHERE id = 1"
DOCTORED: list[tuple[int, str, list[str | Edit]]] = [
    (1, "a run is gone", [one_more_run]),
    (1, "a task is gone", [more_work]),
    (1, "a task is still ready", [sets("D", "status = 'ready'"), *forgotten("D"), OPEN]),
    (1, "a run is still open", ["UPDATE batchq_run SET status = 'executing' WHERE id = 1"]),
    (1, "a success never began", [drop("start", "D"), drop("end", "D")]),
    (1, "a success never ended", [drop("end", "D")]),
    (1, "a task is canceled in a run that is not", [*forgotten("D"), sets("D", "status = 'canceled'")]),
    (2, "an attempt started twice", [add("start", "D", at=1.2, pid=900)]),
    (2, "a task without retries was claimed twice", once_more("E")),
    (3, "a start before its condition came true", [put("start", "B", at=2.0)]),
    (3, "a start before the books had what it waits for as over", [attempt("A", f"ended_at = {stored(4.5)}")]),
    (3, "an attempt before the one before it was over", [attempt("B", f"ended_at = {stored(7.5)}")]),
    (4, "a task that didn't run started", [add("start", "A", task="C", at=16.0, pid=900)]),
    (4, "a task didn't run though it could have", [*forgotten("D"), sets("D", "status = 'didnt_run'")]),
    (4, "a task ran against its condition", [ran_against]),
    (5, "a server not bound to the group", ["UPDATE batchq_server_group SET server_id = 3"]),
    (5, "a bound server took the default group", ["INSERT INTO batchq_server_group VALUES (1, 'BG1')"]),
    (5, "a paused group", ["UPDATE batchq_group SET paused = 1 WHERE name = 'BG1'"]),
    (6, "a closed window", ["UPDATE batchq_window SET start = '10:00:02'"]),
    (6, "a disabled server", ["UPDATE batchq_server SET enabled = 0 WHERE id = 2"]),
    (7, "two at once on one thread, by the books", [ONE, attempt("E", f"claimed_at = {stored(8.5)}")]),
    (7, "two at once on one thread, by their own word", [ONE, put("start", "E", at=8.5)]),
    (8, "a failure stored as a success", [put("end", "D", ok=False)]),
    (8, "a success stored as a failure", [put("end", "E", ok=True)]),
    (8, "a failure of which nobody knows the reason", [attempt("E", "reason = NULL")]),
    (8, "a success with the reason of a failure", [attempt("A", "reason = 'error'")]),
    (8, "an outcome of nobody", [drop("end", "E")]),
    (8, "a loss that no fault explains", [other_fault]),
    (8, "a loss after a fault that was over", [early_fault]),
    (8, "an attempt without a record", [f"DELETE FROM batchq_attempt WHERE task_id = {IDS['B']} AND attempt = 1"]),
    (8, "a start that is not in the books", [drop("start", "B"), add("start", "B", 2, attempt=0, at=6.5)]),
    (8, "another server than the books have", [put("start", "E", server="AOS3"), put("end", "E", server="AOS3")]),
    (8, "a verdict that does not follow", ["UPDATE batchq_run SET status = 'success' WHERE id = 1"]),
    (8, "a refused outcome with a result", [put("end", "D", refused=True), sets("D", "result = '1'")]),
    (8, "a refused error without a reason", [put("end", "E", refused=True), attempt("E", "error = NULL")]),
    (8, "a loss after all faults were over", [early_calm]),
    (
        9,
        "another attempt after a success",
        [attempt("B", "status = 'success', reason = NULL, error = NULL"), ended_well],
    ),
    (9, "a task that ended became ready again", [move("E", "error", "ready", 6)]),
    (10, "two transactions handed out by turns", [move("F", "ready", "queued", 2)]),
    (12, "a claim after the cancel was acknowledged", [early_cancel]),
    (12, "a run that was canceled is a success", ["UPDATE batchq_run SET status = 'success' WHERE id = 2", no_end]),
    (13, "a ready task beside a free thread", [sets("G", f"ready_at = {stored(15.5)}"), no_faults]),
    (14, "open tasks", [OPEN]),
    (14, "conditions met", [sets("B", "met = 2")]),
    (14, "tasks that share conditions", [sets("B", "sharing = 1")]),
    (14, "an end that was never settled", [sets("A", "unsettled = 1")]),
]


def test_where_all_is_well_nothing_is_found(tx: Connection) -> None:
    assert found(tx, lines()) == []


@pytest.mark.parametrize(
    ("invariant", "acts"), [pytest.param(number, acts, id=f"{number}: {title}") for number, title, acts in DOCTORED]
)
def test_each_broken_invariant_is_found(tx: Connection, invariant: int, acts: list[str | Edit]) -> None:
    written = lines()
    for act in acts:
        if isinstance(act, str):
            tx.exec_driver_sql(act)
        else:
            act(written)

    assert {violation.invariant for violation in found(tx, written)} == {invariant}


def test_an_outcome_that_the_database_refuses_is_what_it_was_without_a_result(tx: Connection) -> None:
    written = lines()
    for name in ("D", "E"):
        put("end", name, refused=True)(written)
    assert found(tx, written) == []


def test_the_table_has_every_invariant_but_that_of_recurrences() -> None:
    assert {invariant for invariant, *_ in DOCTORED} == set(range(1, 15)) - {11}


def test_it_shares_nothing_with_what_it_judges() -> None:
    code = "import support.checker, sys; print([name for name in sys.modules if name.partition('.')[0] == 'batchq'])"
    said = subprocess.run([sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, check=True)

    assert said.stdout == "[]\n"


def test_a_wall_clock_that_went_back_makes_nothing_look_early(tx: Connection) -> None:
    tx.exec_driver_sql(attempt("B", f"claimed_at = {stored(7 - 3600)}, ended_at = {stored(9 - 3600)}", 2))
    written = lines()
    written.append({"event": "clock", "at": 6.5, "offset": ZERO.timestamp() - 3600})
    written.append({"event": "clock", "at": 9.4, "offset": ZERO.timestamp()})

    assert found(tx, written) == []


def test_windows_are_judged_as_they_were_at_the_claim(tx: Connection) -> None:
    tx.exec_driver_sql("UPDATE batchq_window SET start = '12:00'")
    now = checker.setup_in(tx)
    before = json.loads(json.dumps(now).replace("12:00", "08:00"))
    written = lines()
    written.append({"event": "setup", "begun": at(-60).isoformat(), "done": at(-60).isoformat(), **before})
    written.append({"event": "setup", "begun": at(30).isoformat(), "done": at(31).isoformat(), **now})

    assert found(tx, written) == []
    written[-1]["begun"] = written[-1]["done"] = at(0.5).isoformat()
    assert {violation.invariant for violation in found(tx, written)} == {6}


def test_the_program_reports_each_violation_in_a_sentence_and_its_exit_code_is_1(
    tx: Connection, sqlite_url: str, tmp_path: Path
) -> None:
    tx.commit()
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines()))
    command = [sys.executable, "-m", "support.checker", str(ledger), sqlite_url]
    well = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines() if line["event"] != "end"))
    ill = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)

    assert (well.returncode, well.stdout) == (
        0,
        "2 runs, 8 tasks, 7 attempts (1 cut off), 7 starts, 1 faults: no violations\n",
    )
    assert ill.returncode == 1
    assert "invariant 1: attempt 1 of A of run 1 is a success, but began at 1.100 and has no end" in ill.stdout
