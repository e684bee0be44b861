"""Tickets: handed out by priority into free threads, claimed once, taken back, offered again (rules 16, 19-22, 28)."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest

from batchq import engine
from batchq.core.priority import PRIORITIES
from batchq.core.states import RunState
from batchq.core.windows import Window
from batchq.engine import Life, Offer, Served
from batchq.spec import Job
from batchq.store import moves
from batchq.store.group import name_groups, set_priority
from play import Play, busy, check_counters

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)  # 14:00 in Oslo
DAY = Window(time(8), time(18), 2, "Europe/Oslo")
NIGHT = Window(time(18), time(7, 30), 3, "Europe/Oslo")


def tasks(number: int, **facts) -> Job:
    job = Job("SIDE BY SIDE")
    for position in range(number):
        job.task(f"TASK {position + 1}", "demo.work", **facts)
    return job


@pytest.fixture
def batch(database):
    database.instant = NOON
    return Play(database)


# --- how many (rules 16, 19) --------------------------------------------------------------------------------


def test_tickets_are_handed_out_only_into_threads_that_are_free_as_rule_16_says(batch):
    batch.server("AOS1", 2)
    batch.server("AOS2", 1)
    batch.submit(tasks(5))
    assert len(batch.mail) == 3
    batch.deliver()
    batch.forward()
    assert not batch.mail
    served = batch.finish("TASK 1")
    assert [row.name for row in served.granted] == ["TASK 4"]


def test_a_ticket_out_counts_against_every_thread_that_could_answer_it(batch):
    batch.server("AOS1", 2)
    batch.submit(tasks(1))
    batch.submit(tasks(2))
    batch.forward()
    assert len(batch.mail) == 2


def test_a_pool_that_is_smaller_than_the_window_has_the_last_word_as_rule_16_says(batch):
    batch.server("AOS1", 5, pool=2)
    batch.submit(tasks(5))
    assert len(batch.mail) == 2


def test_some_tickets_ahead_may_be_out_for_each_open_server(batch):
    batch.server("AOS1", 1)
    batch.server("AOS2", 0)
    engine.submit(batch.database, tasks(5).spec())
    step = batch.database.run(lambda tx: engine.advance(tx, ahead=2))
    assert len(step.tickets) == 3


def test_without_a_server_nothing_is_handed_out_and_nothing_is_lost(batch):
    run = batch.submit(tasks(2))
    assert not batch.mail
    batch.server("AOS1", 2)
    batch.forward()
    assert len(batch.mail) == 2
    assert set(batch.states(run).values()) == {"queued"}


def test_in_no_window_a_server_is_no_batch_server_as_rule_19_says(batch):
    batch.server("AOS1", windows=[DAY, NIGHT])
    batch.database.instant = datetime(2026, 6, 1, 5, 45, tzinfo=UTC)  # 07:45 in Oslo, between the two
    batch.submit(tasks(5))
    assert not batch.mail
    batch.database.instant = datetime(2026, 6, 1, 6, 0, tzinfo=UTC)
    batch.forward()
    assert len(batch.mail) == 2


def test_a_group_that_nobody_serves_now_does_not_hold_up_the_others(batch):
    batch.server("AOS1", 1)
    batch.server("AOS2", 0, groups=["BG1"])
    job = Job("MIXED")
    job.task("A", "demo.work", group="BG1", priority="critical")
    job.task("B", "demo.work")
    batch.submit(job)
    assert [ticket.name for ticket in batch.mail] == ["B"]


def test_a_ticket_whose_thread_went_to_another_one_does_not_keep_a_free_thread_idle_as_rule_22_says(batch):
    batch.server("AOS1")
    batch.server("AOS2", groups=["BG1", "default"])
    batch.submit(tasks(1))
    batch.submit(tasks(1, group="BG1"))
    first, second = batch.mail
    assert (first.group, second.group) == ("default", "BG1")
    batch.mail.clear()
    assert batch.serve("AOS2", offers=[first]).granted  # it would have been for AOS1, but AOS2 may take it too
    batch.submit(tasks(1))
    assert [ticket.group for ticket in batch.mail] == ["default"]


# --- in which order (rule 28) -------------------------------------------------------------------------------


def test_a_higher_priority_goes_first_then_the_one_that_waited_longest_as_rule_28_says(batch):
    batch.server("AOS1")
    job = Job("PRIORITIES", priority="low")
    for name, facts in {
        "A": {"priority": "normal"},
        "B": {},
        "C": {"priority": "critical"},
        "D": {"group": "URGENT"},
        "E": {"priority": "high"},
        "F": {"priority": "normal"},
    }.items():
        job.task(name, "demo.work", **facts)
    assert batch.play(job).order == ["C", "E", "A", "F", "B", "D"]


def test_the_priority_is_that_of_the_task_else_of_the_job_else_of_the_group_as_rule_28_says(batch):
    batch.server("AOS1")
    batch.database.run(lambda tx: name_groups(tx, ["URGENT"]))
    assert batch.database.run(lambda tx: set_priority(tx, "URGENT", PRIORITIES["high"]))
    jobs = {"of the group": Job("A", group="URGENT"), "of the job": Job("B", group="URGENT", priority="low")}
    for name, job in jobs.items():
        job.task(name, "demo.work")
    jobs["of the job"].task("of the task", "demo.work", priority="critical")
    batch.submit(tasks(1))
    runs = {name: batch.submit(job) for name, job in jobs.items()}
    found = {
        "of the group": batch.task(runs["of the group"], "of the group").own_class,
        "of the job": batch.task(runs["of the job"], "of the job").own_class,
        "of the task": batch.task(runs["of the job"], "of the task").own_class,
    }
    assert found == {"of the group": 2, "of the job": 0, "of the task": 3}


def test_a_group_that_gets_another_priority_moves_what_has_none_of_its_own_as_rule_28_says(batch):
    batch.server("AOS1")
    job = Job("WAITING", group="BG1")
    job.task("A", "demo.work")
    job.task("B", "demo.work", priority="normal")
    job.task("C", "demo.work", priority="high")
    batch.server("AOS1", 0)
    run = batch.submit(job)
    assert batch.database.run(lambda tx: set_priority(tx, "BG1", PRIORITIES["critical"]))
    assert not batch.database.run(lambda tx: set_priority(tx, "unknown", 3))
    assert [batch.task(run, name).own_class for name in "ABC"] == [3, 1, 2]
    batch.change("AOS1", threads=3)
    batch.forward()
    assert [ticket.name for ticket in batch.mail] == ["A", "C", "B"]


def test_what_waited_longest_goes_first_across_runs_and_groups_as_rule_28_says(batch):
    batch.server("AOS1", 0)
    for name, group in (("A", "BG1"), ("B", None), ("C", "BG2"), ("D", "BG1")):
        job = Job(name, group=group)
        job.task(name, "demo.work")
        batch.submit(job)
        batch.database.later(seconds=1)
    batch.change("AOS1", threads=4)
    batch.forward()
    assert [ticket.name for ticket in batch.mail] == ["A", "B", "C", "D"]


# --- claims (rules 16, 20) ----------------------------------------------------------------------------------


def test_a_ticket_that_comes_twice_starts_once(batch):
    batch.server("AOS1", 2)
    batch.server("AOS2", 2)
    batch.submit(tasks(1))
    (ticket,) = batch.mail
    granted = [batch.serve(name, offers=[ticket]).granted for name in ("AOS1", "AOS2", "AOS2")]
    assert [len(rows) for rows in granted] == [1, 0, 0]
    assert batch.workers["AOS2"].stale == 2


def test_a_ticket_that_comes_twice_in_one_commit_starts_once(batch):
    batch.server("AOS1", 2)
    batch.submit(tasks(1))
    (ticket,) = batch.mail
    served = batch.serve("AOS1", offers=[ticket, ticket])
    assert (len(served.granted), served.stale) == (1, 1)


def test_a_claim_repeated_after_a_lost_reply_is_granted_again_and_counted_once(batch):
    batch.server("AOS1")
    run = batch.submit(tasks(1))
    (ticket,) = batch.mail
    rows = [batch.serve("AOS1", offers=[ticket], active=0).granted for _ in range(2)]
    assert [[row.attempt for row in each] for each in rows] == [[1], [1]]
    assert batch.task(run, "TASK 1").attempt == 1


def test_a_ticket_of_a_task_that_has_ended_starts_nothing(batch):
    batch.server("AOS1")
    batch.submit(tasks(1))
    (ticket,) = batch.mail
    batch.deliver()
    batch.finish("TASK 1")
    served = batch.serve("AOS1", offers=[ticket])
    assert (list(served.granted), served.stale) == ([], 1)


def test_a_forged_ticket_starts_nothing(batch):
    batch.server("AOS1", 2)
    run = batch.submit(tasks(1))
    (ticket,) = batch.mail
    for forged in (Offer(ticket.task, "forged", "default"), Offer(ticket.task + 1, ticket.token, "default")):
        served = batch.serve("AOS1", offers=[forged])
        assert (list(served.granted), served.stale) == ([], 1)
    assert batch.states(run) == {"TASK 1": "queued"}


def test_a_ticket_that_names_another_group_than_its_task_is_of_is_judged_by_the_books(batch):
    batch.server("AOS1", groups=["default"])
    batch.server("AOS2", groups=["BG1"])
    run = batch.submit(tasks(1, group="BG1"))
    (ticket,) = batch.mail
    assert not batch.serve("AOS1", offers=[Offer(ticket.task, ticket.token, "default")]).granted
    assert batch.states(run) == {"TASK 1": "ready"}


def test_a_claim_finds_no_free_thread_and_waits_its_row_stays_queued_as_rule_16_says(batch):
    batch.server("AOS1")
    run = batch.submit(tasks(1))
    (ticket,) = batch.mail
    served = batch.serve("AOS1", offers=[ticket], active=1)
    assert served.parked == [Offer(ticket.task, ticket.token, "default")]
    assert (list(served.granted), served.stale) == ([], 0)
    assert batch.states(run) == {"TASK 1": "queued"}
    assert [row.name for row in batch.serve("AOS1", offers=served.parked).granted] == ["TASK 1"]


def test_of_several_tickets_as_many_start_as_there_are_threads_the_first_ones_first(batch):
    batch.server("AOS1", 3)
    batch.submit(tasks(3))
    tickets = list(batch.mail)
    served = batch.serve("AOS1", offers=tickets, active=1)
    assert sorted(row.name for row in served.granted) == ["TASK 1", "TASK 2"]
    assert [offer.task for offer in served.parked] == [tickets[2].task]


def test_a_ticket_that_found_no_thread_in_time_goes_back_and_out_again_under_a_new_token(batch):
    batch.server("AOS1")
    batch.server("AOS2")
    run = batch.submit(tasks(1))
    (ticket,) = batch.mail
    batch.mail.clear()
    offer = Offer(ticket.task, ticket.token, "default")
    served = batch.serve("AOS1", overdue=[offer], active=1)
    (again,) = served.advance.tickets
    assert again.task == ticket.task
    assert again.token != ticket.token
    assert not batch.serve("AOS2", offers=[offer]).granted
    batch.deliver()
    assert batch.states(run) == {"TASK 1": "executing"}


def test_a_claim_in_a_closed_window_is_refused_and_the_ticket_goes_back_as_rule_20_says(batch):
    batch.server("AOS1", windows=[DAY])
    run = batch.submit(tasks(1))
    (ticket,) = batch.mail
    batch.database.instant = datetime(2026, 6, 1, 16, 0, tzinfo=UTC)  # 18:00 in Oslo: the end is exclusive
    served = batch.serve("AOS1", offers=[ticket])
    assert (list(served.granted), list(served.parked), served.threads) == ([], [], 0)
    assert batch.states(run) == {"TASK 1": "ready"}


def test_a_claim_in_the_last_microsecond_of_the_window_is_good_as_rule_20_says(batch):
    batch.server("AOS1", windows=[DAY])
    run = batch.submit(tasks(1))
    batch.database.instant = datetime(2026, 6, 1, 16, 0, tzinfo=UTC) - timedelta(microseconds=1)
    batch.deliver()
    assert batch.task(run, "TASK 1").claimed_at == batch.database.instant


def test_a_claim_of_a_foreign_group_is_refused_and_the_ticket_goes_back_as_rule_12_says(batch):
    batch.server("AOS1")
    batch.server("AOS2", groups=["BG1"])
    run = batch.submit(tasks(1, group="BG1"))
    (ticket,) = batch.mail
    assert not batch.serve("AOS1", offers=[ticket]).granted
    assert batch.states(run) == {"TASK 1": "ready"}


def test_a_claim_by_a_disabled_server_is_refused_as_rule_20_says(batch):
    batch.server("AOS1")
    run = batch.submit(tasks(1))
    (ticket,) = batch.mail
    assert batch.change("AOS1", enabled=False) == 1
    assert not batch.serve("AOS1", offers=[ticket]).granted
    assert batch.states(run) == {"TASK 1": "ready"}


def test_running_tasks_finish_when_a_window_closes_and_nothing_new_starts_as_rule_20_says(batch):
    batch.server("AOS1", windows=[DAY])
    run = batch.submit(tasks(3))
    batch.deliver()
    batch.database.instant = datetime(2026, 6, 1, 17, 0, tzinfo=UTC)
    served = batch.finish("TASK 1")
    assert (list(served.granted), served.advance.tickets) == ([], [])
    assert batch.states(run) == {"TASK 1": "success", "TASK 2": "executing", "TASK 3": "ready"}


def test_when_threads_fall_nothing_new_starts_until_fewer_run_than_are_allowed_as_rule_20_says(batch):
    batch.server("AOS1", 3)
    batch.submit(tasks(5))
    batch.deliver()
    batch.change("AOS1", threads=2)
    assert not batch.finish("TASK 1").granted
    assert [row.name for row in batch.finish("TASK 2").granted] == ["TASK 4"]


# --- taken back (rule 20) -----------------------------------------------------------------------------------


def test_disabling_a_server_takes_its_tickets_back_in_the_same_transaction_as_rule_20_says(batch):
    batch.server("AOS1", 2)
    batch.server("AOS2", 1)
    run = batch.submit(tasks(3))
    assert batch.change("AOS1", enabled=False) == 2
    assert sorted(batch.states(run).values()) == ["queued", "ready", "ready"]
    assert batch.states(run)["TASK 1"] == "queued"  # the oldest ticket stays


def test_a_tick_takes_back_what_a_closed_window_left_out_as_rule_20_says(batch):
    batch.server("AOS1", windows=[DAY])
    run = batch.submit(tasks(2))
    batch.database.instant = datetime(2026, 6, 1, 16, 0, tzinfo=UTC)
    batch.mail.clear()
    batch.tick()
    assert set(batch.states(run).values()) == {"ready"}
    assert not batch.mail


def test_a_tick_takes_nothing_back_that_a_thread_answers(batch):
    batch.server("AOS1", 2)
    run = batch.submit(tasks(2))
    batch.tick()
    assert set(batch.states(run).values()) == {"queued"}
    assert len(batch.mail) == 2


def test_a_ticket_taken_back_goes_out_again_when_the_window_opens_as_rule_20_says(batch):
    batch.server("AOS1", windows=[DAY])
    run = batch.submit(tasks(1))
    old = batch.mail.popleft()
    batch.database.instant = datetime(2026, 6, 1, 17, 0, tzinfo=UTC)
    batch.tick()
    batch.database.instant = datetime(2026, 6, 2, 6, 0, tzinfo=UTC)
    batch.tick()
    (new,) = batch.mail
    assert new.token != old.token
    assert batch.serve("AOS1", offers=[old]).stale == 1
    batch.deliver()
    assert batch.task(run, "TASK 1").attempt == 1  # a ticket is no attempt


# --- offered again (rule 22) --------------------------------------------------------------------------------


def test_a_lost_ticket_is_offered_again_after_5_seconds_then_10_and_so_on_up_to_a_minute(batch):
    batch.server("AOS1")
    batch.submit(tasks(1))
    seen, tokens = [], {batch.mail.popleft().token}
    for second in range(1, 200):
        batch.database.later(seconds=1)
        batch.tick()
        if batch.mail:
            seen.append(second)
            tokens.add(batch.mail.popleft().token)
    assert seen == [5, 15, 35, 75, 135, 195]
    assert len(tokens) == 7


def test_a_ticket_that_was_replaced_starts_nothing_and_its_replacement_does(batch):
    batch.server("AOS1")
    run = batch.submit(tasks(1))
    old = batch.mail.popleft()
    batch.database.later(seconds=5)
    batch.tick()
    assert batch.serve("AOS1", offers=[old]).stale == 1
    batch.deliver()
    assert batch.states(run) == {"TASK 1": "executing"}


def test_a_ticket_claimed_in_time_is_not_offered_again(batch):
    batch.server("AOS1")
    batch.submit(tasks(1))
    batch.deliver()
    batch.database.later(seconds=60)
    batch.tick()
    assert not batch.mail


# --- doors that say no --------------------------------------------------------------------------------------


def test_a_move_that_comes_too_late_changes_nothing(batch):
    """Each guarded move refuses what is no longer as its caller holds it (rule 6)."""
    batch.server("AOS1")
    run = batch.submit(tasks(1))
    ticket = batch.mail.popleft()
    batch.serve("AOS1", offers=[ticket])
    before = batch.task(run, "TASK 1")

    def too_late(tx):
        assert moves.unqueue(tx, [(ticket.task, ticket.token)]) == 0
        moves.requeue(tx, [], NOON)
        assert not moves.start_runs(tx, [run], NOON).count
        closing = {"run": run, "was": RunState.EXECUTING.value, "verdict": RunState.SUCCESS.value}
        assert moves.close_runs(tx, [closing], NOON).count == 0
        moves.count_and_move(
            tx,
            [
                {
                    "task": ticket.task, "pending": 0, "met": 0, "impossible": 0,
                    "state": "didnt_run", "ready": None, "ended": NOON,
                }
            ],
        )  # fmt: skip

    batch.database.run(too_late)
    assert batch.task(run, "TASK 1") == before
    assert batch.verdict(run) == "executing"
    check_counters(batch.database)


def test_what_a_server_asks_under_an_old_epoch_gets_no_answer(batch):
    old = batch.server("AOS1")
    run = batch.submit(tasks(1))
    (ticket,) = batch.mail
    batch.live("AOS1")
    batch.workers["AOS1"].life = Life(old.server, "AOS1", old.epoch)
    assert batch.serve("AOS1", offers=[ticket]) == Served(fenced=True)
    assert batch.states(run) == {"TASK 1": "queued"}


def test_only_the_coordinator_advances_while_the_fast_path_is_off(database):
    batch = Play(database, fast_path=False)
    batch.server("AOS1")
    run = batch.submit(tasks(2))
    batch.deliver()
    served = batch.finish("TASK 1")
    assert (list(served.granted), served.advance.tickets) == ([], [])
    assert batch.task(run, "TASK 1").unsettled
    batch.forward()
    batch.deliver()
    assert batch.executing() == ["TASK 2"]


def test_whether_there_is_anything_to_move_is_known_without_moving_it(batch):
    def open_now() -> bool:
        with batch.database.read() as tx:
            return moves.anything_open(tx)

    assert not open_now()
    batch.server("AOS1", 1)
    batch.submit(tasks(2))
    assert open_now()  # a ticket is out, and a task is ready
    batch.deliver()
    assert open_now()
    batch.finish("TASK 1")
    assert not open_now()  # what executes is its server's business
    batch.finish("TASK 2")
    assert not open_now()
    with batch.database.read() as tx:
        assert busy(tx) == (0, {})
