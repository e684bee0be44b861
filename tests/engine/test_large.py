"""Large runs: stored in chunks that nobody sees, settled in bounded pieces, so that no transaction lasts long."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from batchq import engine
from batchq.core.ends import Failure, Success
from batchq.core.states import Reason
from batchq.spec import JobSpec, TaskSpec
from batchq.store import moves
from batchq.store.columns import CONDITION, RUN, TASK
from play import Clocked, Play, check_counters

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
LONG = {"sqlite": 5000, "postgresql": 1000}  # each task of a chain costs four round trips


def fan_out(width: int, outcome: str = "success") -> JobSpec:
    tasks = [TaskSpec(name=f"TASK {n}", run="demo.work", after={"FIRST": outcome}) for n in range(width)]
    return JobSpec(name="FAN-OUT", tasks=(TaskSpec(name="FIRST", run="demo.work"), *tasks))


def chain(length: int) -> JobSpec:
    first = TaskSpec(name="0", run="demo.work")
    rest = (TaskSpec(name=str(n), run="demo.work", after=str(n - 1)) for n in range(1, length))
    return JobSpec(name="CHAIN", tasks=(first, *rest))


class Watched(Clocked):
    """A database that is looked at after each transaction."""

    look = None

    def run(self, act, *args, **kwargs):
        result = super().run(act, *args, **kwargs)
        if self.look:
            look, self.look = self.look, None
            look()
            self.look = look
        return result


@pytest.fixture
def watched(database):
    watched = Watched(database.url.render_as_string(hide_password=False))
    yield watched
    watched.dispose()


def test_a_large_job_is_stored_in_chunks_of_which_nothing_starts_before_all_of_it_is_there(watched):
    batch = Play(watched)
    batch.server("AOS1", 4)
    seen = []

    def look():
        """Another process: it sees so much of the run, and tries to move it forward."""
        with watched.read() as tx:
            status = tx.execute(select(RUN.status)).scalar()
            tasks, ready = tx.execute(select(func.count(), func.count().filter(TASK.status != "waiting"))).one()
            conditions = tx.execute(select(func.count()).select_from(CONDITION.task_id.table)).scalar()
        seen.append((status, tasks, conditions, ready))
        if status == "storing":
            assert not watched.run(lambda tx: engine.advance(tx)).tickets

    watched.look = look
    run = engine.submit(watched, chain(2 * engine.submitting.ROWS_PER_TRANSACTION + 1))
    watched.look = None
    most = engine.submitting.ROWS_PER_TRANSACTION
    assert seen[:-1] == [
        ("storing", 0, 0, 0),
        ("storing", most, 0, 0),
        ("storing", 2 * most, 0, 0),
        ("storing", 2 * most + 1, 0, 0),
        ("storing", 2 * most + 1, most, 0),
        ("storing", 2 * most + 1, 2 * most, 0),
    ]
    assert seen[-1] == ("executing", 2 * most + 1, 2 * most, 1)
    assert batch.verdict(run) == "executing"
    batch.forward()
    assert [ticket.name for ticket in batch.mail] == ["0"]
    check_counters(watched)


def test_a_small_job_is_stored_and_opened_in_one_transaction(watched):
    statuses = []

    def look():
        with watched.read() as tx:
            statuses.append(tx.execute(select(RUN.status)).scalar())

    watched.look = look
    engine.submit(watched, fan_out(10))
    watched.look = None
    assert statuses == ["executing"]


def test_a_run_whose_submit_died_half_way_is_discarded_an_hour_later_and_never_starts(batch):
    batch.database.instant = NOON
    batch.server("AOS1")

    class Died(Exception):
        pass

    class Dying(Clocked):
        """A process that dies after its third transaction."""

        left = 3

        def run(self, act, *args, **kwargs):
            if not self.left:
                raise Died
            self.left -= 1
            return super().run(act, *args, **kwargs)

    dying = Dying(batch.database.url.render_as_string(hide_password=False))
    dying.instant = NOON
    with pytest.raises(Died):
        engine.submit(dying, fan_out(2 * engine.submitting.ROWS_PER_TRANSACTION))
    dying.dispose()
    batch.forward()
    assert not batch.mail
    discard = moves.discard_unstored
    hour = timedelta(hours=1)
    assert batch.database.run(lambda tx: discard(tx, NOON - hour, NOON)) == []
    assert batch.database.run(lambda tx: discard(tx, NOON + hour, NOON + hour)) == [1]
    assert batch.verdict(1) == "canceled"
    assert batch.states(1) == {}
    assert not batch.database.run(lambda tx: moves.start_runs(tx, [1], NOON).count)
    check_counters(batch.database)


def test_a_fan_out_of_3000_is_readied_over_several_transactions(batch):
    batch.server("AOS1", 5)
    run = batch.submit(fan_out(3000))
    batch.deliver()
    name, row = batch.at("FIRST")
    served = batch.database.run(
        engine.serve, batch.workers[name].life,
        engine.Flush(reports=[engine.Report(row.id, row.token, Success())], active=0, pool=1000),
    )  # fmt: skip
    assert served.advance.more
    assert len(served.granted) == 5  # those that are ready already need not wait for the rest
    assert Counter(batch.states(run).values())["waiting"] == 2000
    assert batch.forward() == 2
    assert Counter(batch.states(run).values()) == {"success": 1, "executing": 5, "ready": 2995}
    check_counters(batch.database)


def test_a_fan_out_of_3000_that_didnt_run_closes_its_run_with_the_last_piece(batch):
    batch.server("AOS1")
    run = batch.submit(fan_out(3000, "error"))
    batch.deliver()
    batch.finish("FIRST")
    assert Counter(batch.states(run).values()) == {"success": 1, "didnt_run": 3000}
    assert batch.verdict(run) == "success"
    check_counters(batch.database)


def test_a_long_chain_that_didnt_run_is_settled_over_many_transactions_by_its_server(batch):
    length = LONG[batch.database.kind]
    batch.server("AOS1")
    run = batch.submit(chain(length))
    batch.deliver()
    transactions = []
    batch.watch = lambda tx: transactions.append(tx)
    served = batch.finish("0", ok=False)
    assert served.advance.more
    assert len(transactions) == length / engine.settling.ROUNDS_PER_TRANSACTION
    assert Counter(batch.states(run).values()) == {"error": 1, "didnt_run": length - 1}
    assert batch.verdict(run) == "error"
    check_counters(batch.database)


def test_what_a_server_left_unsettled_when_it_died_the_coordinator_settles(batch):
    batch.server("AOS1")
    run = batch.submit(chain(500))
    batch.deliver()
    name, row = batch.at("0")
    served = batch.database.run(
        engine.serve, batch.workers[name].life,
        engine.Flush(reports=[engine.Report(row.id, row.token, Failure(Reason.ERROR, "no"))], active=0, pool=1000),
    )  # fmt: skip
    assert served.advance.more
    assert batch.forward() > 5
    assert batch.verdict(run) == "error"
    check_counters(batch.database)


def test_a_task_behind_3000_others_starts_when_the_last_of_them_has_ended(batch):
    batch.server("AOS1", 3000)
    before = [TaskSpec(name=f"TASK {n}", run="demo.work") for n in range(3000)]
    last = TaskSpec(name="LAST", run="demo.work", after=[task.name for task in before])
    run = batch.submit(JobSpec(name="FAN-IN", tasks=(*before, last)))
    batch.serve("AOS1", offers=list(batch.mail))
    batch.mail.clear()
    rows = list(batch.workers["AOS1"].active.values())
    reports = [engine.Report(row.id, row.token, Success()) for row in rows]
    batch.serve("AOS1", reports[:-1])
    assert batch.states(run)["LAST"] == "waiting"
    batch.serve("AOS1", reports[-1:])
    assert batch.executing() == ["LAST"]
    check_counters(batch.database)
