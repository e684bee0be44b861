"""The moves that statements make, each looked up in the table of rule 6 when its module is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.sql.elements import ColumnElement

from batchq.core.states import MOVES, RUN_MOVES, RunState, State
from batchq.store.columns import RUN, status_in_index, status_is

Status = TypeVar("Status", State, RunState)


@dataclass(frozen=True, slots=True)
class Move(Generic[Status]):
    """A move from one state to one of some others; its words go into a statement's WHERE and SET."""

    before: Status
    after: tuple[Status, ...]

    @property
    def status(self) -> str:
        """The status to write. A move with several ends has none: its rows bring their own."""
        (after,) = self.after
        return after.value


class TaskMove(Move[State]):
    """A move of a task."""

    @property
    def standing(self) -> ColumnElement[bool]:
        """The task is still in the state that the move starts from; for rows found by id."""
        return status_is(self.before)

    @property
    def in_index(self) -> ColumnElement[bool]:
        """The task is still in the state that the move starts from; for rows found by a partial index."""
        return status_in_index(self.before)


class RunMove(Move[RunState]):
    """A move of a run."""

    @property
    def standing(self) -> ColumnElement[bool]:
        """The run is still in the state that the move starts from."""
        test: ColumnElement[bool] = RUN.status == self.before.value
        return test


def becomes(before: State, *after: State) -> TaskMove:
    """The move of a task from `before` to one of `after`; raises ValueError for a move that rule 6 does not know."""
    _look_up(before, after, MOVES[before])
    return TaskMove(before, after)


def run_becomes(before: RunState, *after: RunState) -> RunMove:
    """The move of a run from `before` to one of `after`; raises ValueError for a move that rule 6 does not know."""
    _look_up(before, after, RUN_MOVES[before])
    return RunMove(before, after)


def _look_up(before: Status, after: tuple[Status, ...], allowed: frozenset[Status]) -> None:
    if not after or not allowed.issuperset(after):
        raise ValueError(f"rule 6 knows no move from {before.value} to {' or '.join(each.value for each in after)}")
