"""Find rows that cannot be as they are, as somebody changed them by hand, and the work set aside because of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    Boolean,
    Float,
    Integer,
    LargeBinary,
    Row,
    String,
    Table,
    cast,
    func,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.sql.elements import ColumnElement

from batchq.core import secrets
from batchq.core.priority import PRIORITIES
from batchq.core.states import NOT_STARTED, TERMINAL, RunState, State
from batchq.store import trouble
from batchq.store.columns import GROUP, RUN, RUN_IS_OPEN, SERVER, TASK, run_of
from batchq.store.sql.dialect import dialect
from batchq.store.sql.untyped import AnyColumn
from batchq.store.tables import Run, Server, TaskRow
from batchq.store.transaction import Tx
from batchq.store.trouble import What

# A row as it is stored: any of its columns may hold a value of a wrong type.
Stored: TypeAlias = Row[*tuple[Any, ...]]
# Long texts that no check needs.
LONG = ("error", "result", "definition")
TYPES: tuple[tuple[type, tuple[type, ...]], ...] = (
    (Integer, (int,)),
    (Boolean, (int,)),
    (Float, (int, float)),
    (String, (str,)),
)
SAID = {
    What.TASK: "{name} can be neither handed out, claimed nor taken back ({reason})",
    What.LOST: "the attempt of {name} that was lost cannot be ended ({reason})",
    What.REPORT: "the outcome of {name} cannot be stored ({reason}), and is kept by {told_by}",
    What.RUN: "{name} can be neither settled, closed, moved nor discarded ({reason})",
    What.RETRY: "the retry of {name} cannot go on ({reason})",
    What.SERVER: "{name} cannot be declared lost ({reason})",
}


def broken(tx: Tx) -> Iterator[str]:
    """Every row of open work that cannot be as it is, and every row set aside, a sentence each."""
    dialect(tx).read_strictly(tx)  # else bytes that are no text would pass unnoticed
    for row in trouble.every(tx):
        said = SAID[What(row.what)].format(name=_named(tx, row), reason=row.reason, told_by=row.told_by)
        yield f"{said[0].upper()}{said[1:]}: it is set aside since {row.since:%Y-%m-%d %H:%M:%S} UTC, and tried again."
    groups = {row.name: row for row in _all_groups(tx)}
    yield from _of_servers(tx)
    yield from (said for name, row in groups.items() for said in _of_group(name, row))
    yield from _of_runs(tx)
    yield from _of_tasks(tx, groups)


def _named(tx: Tx, row: trouble.SetAside) -> str:
    """The row that was set aside, by its name if that can be read."""
    if row.what in (What.RUN, What.RETRY):
        return f"run {row.number}"
    if row.what == What.SERVER:
        return f"server {_name(tx, Server.__table__, row.number)}"
    return _task(tx, row.number)


def _task(tx: Tx, number: int) -> str:
    return f"task {_name(tx, TaskRow.__table__, number)} of run {run_of(number)}"


def _name(tx: Tx, table: Table, number: int) -> str:
    names: list[object] = []
    error = trouble.tried(
        tx, lambda: names.extend(tx.execute(select(table.c.name).where(table.c.id == number)).scalars()), keep=False
    )
    return repr(names[0]) if not error and names and isinstance(names[0], str) else f"number {number}"


# --- reading --------------------------------------------------------------------------------------------------


def _read(tx: Tx, table: Table, where: ColumnElement[bool]) -> tuple[Sequence[Stored], dict[int, str]]:
    """The rows that can be read, and why the others cannot, by their ids."""
    statement = select(*(_as_it_is(column) for column in table.c if column.name not in LONG))
    found: dict[int, Stored] = {}

    def read(numbers: Sequence[int]) -> None:
        found.update((row.id, row) for row in tx.execute(statement.where(table.c.id.in_(numbers))))

    numbers = list(tx.execute(select(table.c.id).where(where).order_by(table.c.id)).scalars())
    unread: dict[int, str] = {}
    for first in range(0, len(numbers), CHUNK):
        unread |= trouble.culprits(tx, numbers[first : first + CHUNK], read)
    return list(found.values()), unread


CHUNK = 1000


def _as_it_is(column: AnyColumn) -> AnyColumn:
    return type_coerce(column, Integer).label(column.name) if isinstance(column.type, Boolean) else column


def _odd(row: Stored, columns: Iterable[AnyColumn]) -> Iterator[str]:
    """The values of another type than their column, which SQLite accepts."""
    for column in columns:
        value = row._mapping.get(column.name)
        stored = getattr(column.type, "impl_instance", column.type)
        for kind, types in TYPES:
            if isinstance(stored, kind) and value is not None and not isinstance(value, types):
                yield f"its {column.name} is {_short(value)}"


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


class _Group(NamedTuple):
    """A group as it is stored; a name that is no text is given in hexadecimal digits."""

    name: object
    priority: object


def _all_groups(tx: Tx) -> Sequence[_Group]:
    rows: list[_Group] = []
    names = select(GROUP.name, GROUP.priority)
    if trouble.tried(tx, lambda: rows.extend(_Group(*row) for row in tx.execute(names)), keep=False):
        as_bytes = select(cast(GROUP.name, LargeBinary).label("name"), GROUP.priority)
        rows += [_Group(row.name.hex().upper(), row.priority) for row in tx.execute(as_bytes)]
    return rows


# --- the sentences --------------------------------------------------------------------------------------------


def _of_servers(tx: Tx) -> Iterator[str]:
    table = Server.__table__
    found, unread = _read(tx, table, table.c.id.is_not(None))
    for number, reason in unread.items():
        yield f"Server number {number} cannot be read ({reason}). Correct its row of batchq_server."
    for row in found:
        wrong = list(_odd(row, table.c))
        if not wrong and row.life is not None and _json(row.life) is None:
            wrong.append(f"its life is {_short(row.life)}")
        if wrong:
            yield f"Server {_short(row.name)} cannot be as it is ({'; '.join(wrong)}). Correct it in batchq_server."


def _of_group(name: object, row: _Group) -> Iterator[str]:
    if not isinstance(name, str) or not name or row.priority not in PRIORITIES.values():
        fact = f"its priority is {_short(row.priority)}" if isinstance(name, str) and name else "its name is none"
        yield f"Group {_short(name)} cannot be as it is ({fact}). Correct its row of batchq_group."


def _of_runs(tx: Tx) -> Iterator[str]:
    table = Run.__table__
    found, unread = _read(tx, table, or_(RUN_IS_OPEN, RUN.retry.is_not(None)))
    for number, reason in unread.items():
        yield f"Run {number} cannot be read ({reason}). Correct its row of batchq_run."
    still_open = or_(TASK.status.not_in([state.value for state in TERMINAL]), TASK.unsettled)
    counted = select(TASK.run_id, func.count()).join(Run, RUN.id == TASK.run_id).where(RUN_IS_OPEN, still_open)
    numbers = Counter(dict(map(tuple, tx.execute(counted.group_by(TASK.run_id)))))
    for row in found:
        wrong = list(_odd(row, table.c))
        if not wrong and row.retry is not None and not isinstance(_json(row.retry), dict):
            wrong.append(f"its retry is {_short(row.retry)}")
        if not wrong and row.status != RunState.STORING and row.open_tasks != numbers[row.id]:
            wrong.append(f"it counts {row.open_tasks} open tasks, and has {numbers[row.id]}")
        if wrong:
            yield f"Run {row.id} cannot be as it is ({'; '.join(wrong)}). Correct its row of batchq_run."


def _of_tasks(tx: Tx, groups: Collection[object]) -> Iterator[str]:
    table = TaskRow.__table__
    is_open = TASK.run_id.in_(select(RUN.id).where(RUN_IS_OPEN, RUN.status != RunState.STORING.value))
    found, unread = _read(tx, table, is_open & TASK.status.not_in([state.value for state in TERMINAL]))
    for number, reason in unread.items():
        yield f"Task number {number & 0xFFFFF} of run {run_of(number)} cannot be read ({reason}). {CORRECT}"
    lives = {row.id: row.epoch for row in tx.execute(select(SERVER.id, SERVER.epoch))}
    for row in found:
        if wrong := list(_odd(row, table.c)) or list(_wrong(row, groups, lives)):
            yield f"Task {_short(row.name)} of run {row.run_id} cannot be as it is ({'; '.join(wrong)}). {CORRECT}"


CORRECT = "Correct its row of batchq_task, or cancel the run."


def _wrong(row: Stored, groups: Collection[object], lives: Mapping[int, int]) -> Iterator[str]:
    """The faults that the types allow and the rules forbid."""
    if row.group_name not in groups:
        yield f"there is no group {_short(row.group_name)}"
    if row.status in NOT_STARTED:
        if not isinstance(_json(row.args), list):
            yield "its args are no JSON list"
        if not _has_arguments(row.kwargs):
            yield "its kwargs are no JSON object"
        if not row.operation:
            yield "it has no operation"
    if row.status == State.READY and row.ready_at is None:
        yield "it is ready, and since no instant"
    if row.status == State.WAITING and row.waits_with is None and not row.pending:
        yield "it waits, and for nothing"
    if row.status in (State.QUEUED, State.EXECUTING) and not row.token:
        yield "it has no token"
    if row.status == State.EXECUTING and (row.server_id not in lives or lives[row.server_id] != row.epoch):
        yield "it executes on no server that lives"


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def _has_arguments(text: str) -> bool:
    try:
        return all(isinstance(part, dict) for part in secrets.unpacked(text))
    except (ValueError, TypeError, LookupError, RecursionError):
        return False
