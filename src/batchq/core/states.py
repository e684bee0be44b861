"""The states of a task and of a run, the moves between them, and the words that people see (rules 6, 7)."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Status of a task."""

    WAITING = "waiting"
    READY = "ready"
    QUEUED = "queued"
    EXECUTING = "executing"
    SUCCESS = "success"
    ERROR = "error"
    DIDNT_RUN = "didnt_run"
    CANCELED = "canceled"


class RunState(StrEnum):
    """Status of a run."""

    STORING = "storing"
    EXECUTING = "executing"
    CANCELING = "canceling"
    SUCCESS = "success"
    ERROR = "error"
    CANCELED = "canceled"


class Outcome(StrEnum):
    """The end that a condition asks of the task it names."""

    SUCCESS = "success"
    ERROR = "error"
    FINISHED = "finished"
    SKIPPED = "skipped"
    OVER = "over"


class Reason(StrEnum):
    """Why an attempt failed (rules 30-32, 34)."""

    ERROR = "error"  # the operation came back with an error
    LOST = "lost"  # how it ended can no longer be known
    TIMED_OUT = "timed_out"
    NOT_STARTED = "not_started"  # claimed, but its operation never began
    ABORTED = "aborted"  # an operator ended it


TERMINAL = frozenset({State.SUCCESS, State.ERROR, State.DIDNT_RUN, State.CANCELED})
NOT_STARTED = frozenset({State.WAITING, State.READY, State.QUEUED})
RUN_OPEN = frozenset({RunState.STORING, RunState.EXECUTING, RunState.CANCELING})
RUN_ENDED = frozenset({RunState.SUCCESS, RunState.ERROR, RunState.CANCELED})

# Every move a task can make. Only a gate goes from waiting to success (rule 50). The last four rows are an operator's
# retry.
MOVES: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.READY, State.SUCCESS, State.DIDNT_RUN, State.CANCELED}),
    State.READY: frozenset({State.QUEUED, State.EXECUTING, State.CANCELED}),
    State.QUEUED: frozenset({State.EXECUTING, State.READY, State.CANCELED}),
    State.EXECUTING: frozenset({State.SUCCESS, State.ERROR, State.READY, State.CANCELED}),
    State.SUCCESS: frozenset({State.WAITING}),
    State.ERROR: frozenset({State.WAITING}),
    State.DIDNT_RUN: frozenset({State.WAITING}),
    State.CANCELED: frozenset({State.WAITING}),
}

RUN_MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.STORING: frozenset({RunState.EXECUTING, RunState.CANCELED}),
    RunState.EXECUTING: frozenset({RunState.CANCELING, RunState.SUCCESS, RunState.ERROR, RunState.CANCELED}),
    RunState.CANCELING: frozenset({RunState.CANCELED}),
    RunState.SUCCESS: frozenset({RunState.EXECUTING}),
    RunState.ERROR: frozenset({RunState.EXECUTING}),
    RunState.CANCELED: frozenset({RunState.EXECUTING}),
}

# Which end of a task meets which condition; what is not here never does (rule 4). Canceled here means aborted: in a run
# that is canceled nothing moves on any more.
MET_BY: dict[Outcome, frozenset[State]] = {
    Outcome.SUCCESS: frozenset({State.SUCCESS}),
    Outcome.ERROR: frozenset({State.ERROR}),
    Outcome.FINISHED: frozenset({State.SUCCESS, State.ERROR}),
    Outcome.SKIPPED: frozenset({State.DIDNT_RUN}),
    Outcome.OVER: frozenset({State.SUCCESS, State.ERROR, State.DIDNT_RUN, State.CANCELED}),
}

# Taken on input, never printed.
SYNONYMS: dict[str, Outcome] = {
    "ended": Outcome.SUCCESS,
    "succeeded": Outcome.SUCCESS,
    "ok": Outcome.SUCCESS,
    "afterok": Outcome.SUCCESS,
    "failure": Outcome.ERROR,
    "failed": Outcome.ERROR,
    "afternotok": Outcome.ERROR,
    "done": Outcome.FINISHED,
    "afterany": Outcome.FINISHED,
    "ended_or_error": Outcome.FINISHED,
    "omitted": Outcome.SKIPPED,
    "not_run": Outcome.SKIPPED,
    "didnt_run": Outcome.SKIPPED,
    "always": Outcome.OVER,
    "all_done": Outcome.OVER,
    **{outcome.value: outcome for outcome in Outcome},
}

# The vendor's words, for people.
LABELS: dict[str, str] = {
    "storing": "Storing",
    "withhold": "Withhold",
    "waiting": "Waiting",
    "ready": "Ready",
    "queued": "Ready",
    "executing": "Executing",
    "success": "Ended",
    "error": "Error",
    "didnt_run": "Didn't run",
    "canceling": "Canceling",
    "canceled": "Canceled",
}


def may_move(before: State, after: State) -> bool:
    """Whether rule 6 knows the move."""
    return after in MOVES[before]


def after_attempt(
    *, ok: bool, attempt: int, retries: int, canceling: bool = False, final: bool = False, aborted: bool = False
) -> State:
    """Where a task goes when its `attempt`-th start has ended: success, error, canceled, or ready (rules 30-32)."""
    if ok:
        return State.SUCCESS
    if aborted:
        return State.CANCELED
    again = attempt <= retries and not canceling and not final
    return State.READY if again else State.ERROR
