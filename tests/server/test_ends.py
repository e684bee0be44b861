"""What a server says of attempts that no pool process can tell of: the reason, and the sentence for people."""

from __future__ import annotations

import pytest
from billiard.exceptions import Terminated, WorkerLostError
from celery.worker import state

from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.engine import STOPPED
from batchq.server import ends
from batchq.server.child.order import ERROR_CHARS, Done

KILLED = WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL) Job: 3.")
TOLD = WorkerLostError("Worker exited prematurely: signal 15 (SIGTERM) Job: 3.")
UNKNOWN = "during this attempt; what it did is not known"


@pytest.mark.parametrize(
    ("end", "reason", "error"),
    [
        (ends.not_started("no room"), Reason.NOT_STARTED, "not started: no room"),
        (ends.timed_out(0.5), Reason.TIMED_OUT, "timed out: still running after 0.5 s"),
        (ends.timed_out(60.0), Reason.TIMED_OUT, "timed out: still running after 60 s"),
        (ends.aborted(), Reason.ABORTED, f"aborted by an operator {UNKNOWN}"),
        (ends.aborted("ValueError: no"), Reason.ABORTED, "aborted by an operator: ValueError: no"),
        (ends.lost(KILLED), Reason.LOST, f"lost: its process ended (signal 9 (SIGKILL)) {UNKNOWN}"),
        (ends.lost(TOLD), Reason.LOST, f"lost: its process ended (signal 15 (SIGTERM)) {UNKNOWN}"),
        (ends.lost(Terminated(9)), Reason.LOST, f"lost: its process ended (signal 9 (SIGKILL)) {UNKNOWN}"),
    ],
    ids=str,
)
def test_each_failure_has_its_reason_and_its_sentence(end: Failure, reason: Reason, error: str) -> None:
    assert end == Failure(reason, error)


def test_a_process_that_a_stop_ended_is_lost_by_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_stop", 0)
    assert ends.lost(TOLD) == Failure(Reason.LOST, STOPPED)
    assert ends.lost(KILLED).error != STOPPED


def test_what_an_operation_said_as_it_was_aborted_is_cut_to_its_length() -> None:
    assert len(ends.aborted("x" * ERROR_CHARS).error) == ERROR_CHARS


def test_a_child_tells_of_a_success_or_of_an_error() -> None:
    assert Done(True, result="[1]").end == Success("[1]")
    assert Done(False, "ValueError: no").end == Failure(Reason.ERROR, "ValueError: no")
