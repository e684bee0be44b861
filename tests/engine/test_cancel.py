"""Cancel a run (rule 32): what has not started never starts, what executes finishes, and then it is canceled."""

from __future__ import annotations

import pytest

from batchq import actions, engine
from batchq.engine import Offer
from batchq.spec import Job
from play import Clocked, Play, check_counters


def chain() -> Job:
    """A runs, B is queued behind it or waits, C waits."""
    job = Job("CHAIN")
    first = job.task("A", "demo.work", retries=5)
    second = job.task("B", "demo.work", after=first.finished)
    job.task("C", "demo.work", after=second.success | first.success)
    return job


def test_what_has_not_started_is_canceled_at_once_and_what_executes_finishes_as_rule_32_says(batch):
    batch.server("AOS1")
    run = batch.submit(chain())
    batch.deliver()
    assert batch.cancel(run) == 2
    assert batch.states(run) == {"A": "executing", "B": "canceled", "C": "canceled"}
    assert batch.verdict(run) == "canceling"
    batch.finish("A")
    assert batch.states(run) == {"A": "success", "B": "canceled", "C": "canceled"}
    assert batch.verdict(run) == "canceled"
    check_counters(batch.database)


def test_a_failing_task_has_no_further_attempt_and_then_the_run_is_canceled_as_rule_32_says(batch):
    batch.server("AOS1")
    run = batch.submit(chain())
    batch.deliver()
    batch.cancel(run)
    batch.finish("A", ok=False)
    assert batch.states(run)["A"] == "error"
    assert batch.verdict(run) == "canceled"


def test_a_run_in_which_nothing_executes_is_canceled_at_once(batch):
    batch.server("AOS1", 0)
    run = batch.submit(chain())
    assert batch.cancel(run) == 3
    assert batch.verdict(run) == "canceled"
    assert set(batch.states(run).values()) == {"canceled"}
    check_counters(batch.database)


def test_a_ticket_that_is_out_starts_nothing_after_a_cancel_has_returned(batch):
    batch.server("AOS1")
    run = batch.submit(chain())
    (ticket,) = batch.mail
    batch.cancel(run)
    served = batch.serve("AOS1", offers=[ticket])
    assert (list(served.granted), served.stale) == ([], 1)
    assert batch.verdict(run) == "canceled"


def test_a_ticket_that_is_parked_in_a_server_starts_nothing_after_a_cancel_has_returned(batch):
    batch.server("AOS1")
    run = batch.submit(chain())
    (ticket,) = batch.mail
    served = batch.serve("AOS1", offers=[ticket], active=1)
    assert served.parked == [Offer(ticket.task, ticket.token, "default")]
    batch.cancel(run)
    assert not batch.serve("AOS1", offers=[ticket]).granted


def test_a_task_that_waits_for_its_retry_is_canceled_and_not_counted_as_aborted(batch):
    batch.server("AOS1")
    job = Job("RETRIED")
    job.task("A", "demo.work", retries=1, retry_delay=60.0)
    run = batch.submit(job)
    batch.deliver()
    batch.finish("A", ok=False)
    batch.cancel(run)
    row = batch.task(run, "A")
    assert (row.status, row.claimed_at) == ("canceled", None)
    assert batch.verdict(run) == "canceled"


def test_a_cancel_repeated_changes_nothing(batch):
    batch.server("AOS1")
    run = batch.submit(chain())
    batch.deliver()
    assert [batch.cancel(run) for _ in range(3)] == [2, 0, 0]
    batch.finish("A")
    assert batch.cancel(run) == 0
    assert batch.verdict(run) == "canceled"


def test_a_run_that_has_ended_keeps_its_verdict(batch):
    run = batch.play(chain()).run
    assert batch.cancel(run) == 0
    assert batch.verdict(run) == "success"


def test_no_other_run_is_hurt(batch):
    batch.server("AOS1", 2)
    runs = [batch.submit(chain()) for _ in range(2)]
    batch.deliver()
    batch.cancel(runs[0])
    assert batch.states(runs[1])["A"] == "executing"
    batch.finish("A", run=runs[1])
    assert batch.verdict(runs[1]) == "executing"


def test_the_thread_that_a_cancel_frees_goes_to_another_run(batch):
    batch.server("AOS1")
    first = batch.submit(chain())
    second = batch.submit(chain())
    assert [ticket.run for ticket in batch.mail] == [first]
    batch.cancel(first)
    batch.mail.clear()
    batch.forward()
    assert [ticket.run for ticket in batch.mail] == [second]


def test_ends_that_a_cancel_finds_unsettled_are_settled_after_it(database):
    batch = Play(database, fast_path=False)
    batch.server("AOS1")
    run = batch.submit(chain())
    batch.deliver()
    batch.finish("A")
    assert batch.task(run, "A").unsettled
    assert batch.cancel(run) == 2
    assert batch.verdict(run) == "canceling"
    batch.forward()
    assert batch.verdict(run) == "canceled"
    check_counters(database)


class Interrupted(Clocked):
    """A database in which something happens after so many more transactions."""

    after = 0
    happens = None

    def run(self, act, *args, **kwargs):
        result = super().run(act, *args, **kwargs)
        self.after -= 1
        if not self.after:
            self.happens()
        return result


@pytest.fixture
def interrupted(database):
    database = Interrupted(database.url.render_as_string(hide_password=False))
    yield database
    database.dispose()


# A run is opened, its tasks come in two transactions, and its conditions in two.
@pytest.mark.parametrize("transactions", [1, 2, 3, 4, 5])
def test_a_run_canceled_while_it_is_stored_never_starts_and_leaves_no_half_of_it(
    interrupted, transactions, monkeypatch
):
    monkeypatch.setattr(engine.submitting, "ROWS_PER_TRANSACTION", 20)
    job = Job("LARGE")
    task = None
    for number in range(22):
        task = job.task(f"TASK {number}", "demo.work", after=task)
    batch = Play(interrupted)
    batch.server("AOS1")
    interrupted.after = transactions
    interrupted.happens = lambda: actions.cancel_run(interrupted, 1)
    run = batch.submit(job)
    assert batch.verdict(run) == "canceled"
    assert batch.states(run) == {}
    assert not batch.mail
    check_counters(interrupted)
