"""Why an attempt failed is a value in its row, whatever the sentence beside it says (rules 30-32, 34)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batchq import aside
from batchq.core.ends import End, Failure, Success
from batchq.core.states import Reason
from batchq.engine import Report
from batchq.spec import Job
from play import Play
from support.ways import missing, reported, set_aside

JOB = Job("ONE")
JOB.task("A", "demo.work")


def less(of: Callable[[Report, str], Report], end: End) -> Callable[[Play], object]:
    """The database refuses a part of what its server reports."""

    def act(batch: Play) -> object:
        name, row = batch.at("A")
        return batch.serve(name, [of(Report(row.id, row.token, end), "no")])

    return act


LOST = Failure(Reason.LOST, "lost: its process ended")
ENDS: dict[str, tuple[Callable[[Play], object], Reason | None]] = {
    "it succeeds": (reported(Success("[1]")), None),
    "its operation fails": (reported(Failure(Reason.ERROR, "ValueError: no")), Reason.ERROR),
    "its operation says that it is lost": (reported(Failure(Reason.ERROR, "lost: my keys")), Reason.ERROR),
    "its process ends": (reported(LOST), Reason.LOST),
    "it runs too long": (reported(Failure(Reason.TIMED_OUT, "timed out: still running")), Reason.TIMED_OUT),
    "its server cannot start it": (reported(Failure(Reason.NOT_STARTED, "not started: no")), Reason.NOT_STARTED),
    "an operator ends it": (reported(Failure(Reason.ABORTED, "aborted by an operator")), Reason.ABORTED),
    "its server falls silent": (lambda batch: batch.lose("AOS1"), Reason.LOST),
    "its server begins a new life": (lambda batch: batch.live("AOS1"), Reason.LOST),
    "its server stops": (lambda batch: batch.stop("AOS1"), Reason.LOST),
    "its server no longer has it": (missing, Reason.LOST),
    "its server went, and it was set aside": (set_aside, Reason.LOST),
    "a success whose words are refused": (less(aside.bare, Success("[1]")), None),
    "a loss whose words are refused": (less(aside.bare, LOST), Reason.LOST),
    "a success that is refused": (less(aside.refused, Success("[1]")), Reason.ERROR),
    "a loss that is refused": (less(aside.refused, LOST), Reason.LOST),
}


@pytest.mark.parametrize("way", ENDS)
def test_every_way_to_end_has_its_reason_in_the_books(batch: Play, way: str):
    act, reason = ENDS[way]
    batch.server("AOS1")
    run = batch.submit(JOB)
    batch.deliver()
    assert batch.executing() == ["A"]

    act(batch)

    (attempt,) = batch.attempts(run, "A")
    assert (attempt.reason, attempt.status) == (reason, "error" if reason else "success")
    assert (attempt.error is None) is (reason is None)
    assert batch.task(run, "A").error == attempt.error


def test_each_attempt_keeps_its_own_reason_as_rule_30_says(batch: Play):
    job = Job("AGAIN")
    job.task("A", "demo.work", retries=2)
    batch.server("AOS1")
    run = batch.submit(job)
    batch.deliver()
    batch.finish("A", ok=False)
    missing(batch)
    batch.workers["AOS1"].active.clear()
    batch.forward()
    batch.deliver()
    batch.finish("A")

    assert [attempt.reason for attempt in batch.attempts(run, "A")] == ["error", "lost", None]
    assert batch.task(run, "A").status == "success"


def test_no_reason_is_without_a_way_to_it():
    assert {reason for _, reason in ENDS.values()} == {None, *Reason}
