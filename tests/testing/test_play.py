"""A job is played in one call, and its result says how it went: the rules 3, 4 and 7 in a few lines each."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from batchq import Job
from batchq.embedded import DEFAULT_SERVERS
from batchq.errors import Conflict, InvalidInput, NotFound
from batchq.spec import JobSpec, ServerSpec, TaskSpec, loads
from batchq.testing import START, Played, play, play_all
from batchq.testing.script import USUAL_SERVERS
from support import book

OSLO = ZoneInfo("Europe/Oslo")
JOB_1 = book.ROOT / "examples" / "job1.yaml"
MINUTE = timedelta(minutes=1)


def pair(after: str, **options: object) -> Job:
    """A job in which B follows an outcome of A."""
    job = Job("J")
    job.task("A", "app.a", **options)
    job.task("B", "app.b", after={"A": after})
    return job


# --- the rules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "failing", "runs"),
    [
        ("success", "", True),
        ("success", "A", False),
        ("error", "", False),
        ("error", "A", True),
        ("finished", "", True),
        ("finished", "A", True),
    ],
)
def test_a_condition_is_met_as_rule_3_says(after: str, failing: str, runs: bool):
    assert play(pair(after), failing=[failing] if failing else []).states["B"] == ("success" if runs else "didnt_run")


@pytest.mark.parametrize("after", ["success", "error", "finished"])
def test_a_task_that_didnt_run_meets_no_condition_and_rule_4_spreads(after: str):
    job = pair("error")
    job.task("C", "app.c", after={"B": after})
    job.task("D", "app.d", after={"C": "finished"})
    played = play(job)
    assert played.states == {"A": "success", "B": "didnt_run", "C": "didnt_run", "D": "didnt_run"}
    assert [played.why(task) for task in "ABCD"] == [None, "A did not fail", "B didn't run", "C didn't run"]


@pytest.mark.parametrize(
    ("first", "failing", "verdict"),
    [
        ({}, [], "success"),
        ({}, ["A"], "error"),
        ({"ignore_failure": True}, ["A"], "success"),
        ({"ignore_failure": True}, ["A", "B"], "error"),
    ],
)
def test_a_verdict_is_that_of_rule_7(first: dict[str, bool], failing: list[str], verdict: str):
    assert play(pair("finished", **first), failing=failing).verdict == verdict


@pytest.mark.parametrize(("failing", "verdict"), [(["A"], "success"), (["A", "B"], "error")])
def test_a_handled_error_does_not_count_by_rule_7(failing: list[str], verdict: str):
    job = Job("J")
    first = job.task("A", "app.a")
    job.task("B", "app.b", after=first.error.handles)
    assert play(job, failing=failing).verdict == verdict


@pytest.mark.parametrize("row", book.rows(book.part("docs/rules.md", "runs of job 1")), ids=lambda row: row[0])
def test_job_1_ends_as_the_table_of_the_rules_says(row: list[str]):
    failing, *ends, verdict = ([] if cell == "–" else cell.split() for cell in row)
    played = play(JOB_1, failing=[f"TASK {number}" for number in failing])
    wanted = zip(("success", "error", "didnt_run"), ends, strict=True)
    assert played.states == {f"TASK {number}": state for state, numbers in wanted for number in numbers}
    assert [played.verdict] == verdict


# --- how tasks end ------------------------------------------------------------------------------------------


def retried(**options: object) -> Job:
    job = Job("J")
    job.task("A", "app.a", retries=2, retry_delay=30, **options)
    return job


def test_a_number_of_attempts_fails_and_each_is_tried_again_after_its_delay():
    played = play(retried(), failing={"A": 2})
    assert (played.verdict, played.order) == ("success", ["A", "A", "A"])
    assert [start.at - START for start in played.starts] == [0 * MINUTE, 1.5 * MINUTE, 3 * MINUTE]
    assert [start.attempt for start in played.starts] == [1, 2, 3]
    assert played.started_at == {"A": START}
    assert played.ended_at == START + 4 * MINUTE


@pytest.mark.parametrize("how", ["error", "lost", "timed out"])
def test_every_failure_ends_a_task_and_is_tried_again(how: str):
    assert play(retried(time_limit=600), failing={"A": how}).states == {"A": "error"}
    assert play(retried(time_limit=600), failing={"A": [how]}).order == ["A", "A"]


def test_an_attempt_ends_at_its_time_limit():
    late = play(retried(time_limit=10), durations=20)
    assert (late.verdict, late.ended_at) == ("error", START + timedelta(seconds=3 * 10 + 2 * 30))
    assert play(retried(time_limit=10), durations=5).verdict == "success"
    assert play(retried(time_limit=10)).ended_at == START + timedelta(seconds=10)


def test_failures_of_one_task_may_differ_from_attempt_to_attempt():
    played = play(retried(time_limit=10), failing={"A": ["lost", "timed out"]})
    assert [start.at - START for start in played.starts] == [0 * MINUTE, 40 * MINUTE / 60, 80 * MINUTE / 60]


def test_a_task_may_be_named_with_its_job_and_by_its_operation():
    assert play(pair("error"), failing="J / A").states == play(pair("error"), failing="app.a").states
    assert (
        play(pair("success"), durations={"app.a": 5, "J / B": timedelta(seconds=2)}).ended_at == START + 7 * MINUTE / 60
    )


def test_a_task_takes_its_own_duration_unless_the_test_says_another():
    job = Job("J")
    job.task("A", "app.a", duration=3600)
    assert play(job).ended_at == START + timedelta(hours=1)
    assert play(job, durations={"A": 1}).ended_at == START + timedelta(seconds=1)
    assert play(job, durations=0).ended_at == START


# --- jobs ---------------------------------------------------------------------------------------------------


def test_a_job_is_a_builder_a_spec_a_text_a_document_or_a_path(tmp_path: Path):
    text = "job: J\ntasks: {A: {run: app.a}}"
    (tmp_path / "j.yaml").write_text(text, encoding="utf-8")
    spec = JobSpec(name="J", tasks=(TaskSpec(name="A", run="app.a"),))
    job = Job("J")
    job.task("A", "app.a")
    sources = [
        job,
        spec,
        text,
        "{job: J, tasks: {A: app.a}}",
        loads(text),
        tmp_path / "j.yaml",
        str(tmp_path / "j.yaml"),
    ]
    assert {play(source).verdict for source in sources} == {"success"}


def test_several_jobs_share_the_servers_and_each_has_its_result():
    jobs = [Job("EARLY"), Job("LATE")]
    for job in jobs:
        job.task("A", "app.a")
    night = play_all(jobs, on=1, failing=["LATE / A"])
    assert {name: played.verdict for name, played in night.items()} == {"EARLY": "success", "LATE": "error"}
    assert night["LATE"].starts[0].at == night["EARLY"].ended_at == START + MINUTE


def test_the_groups_and_servers_of_a_file_are_those_of_the_rehearsal():
    text = """
        groups: {BG1: {priority: critical}}
        servers: {AOS1: {threads: 1}, AOS2: {groups: [BG1]}}
        job: J
        tasks: {A: app.a, B: {run: app.b, group: BG1}, C: app.c}
    """
    assert [(start.task, start.server) for start in play(text).starts] == [("B", "AOS2"), ("A", "AOS1"), ("C", "AOS1")]
    assert play(text, on=1).order == ["B", "A", "C"]


def test_without_servers_there_are_those_of_batchq_run():
    assert tuple(USUAL_SERVERS) == DEFAULT_SERVERS
    assert {start.server for start in play(JOB_1).starts} == set(DEFAULT_SERVERS)


# --- servers and time ---------------------------------------------------------------------------------------

NIGHT = """
servers:
  AOS1:
    windows:
      - {start: "08:00", end: "18:00", threads: 1, timezone: Europe/Oslo}
      - {start: "18:00", end: "07:30", threads: 2, timezone: Europe/Oslo}
"""


def wide(tasks: int) -> Job:
    job = Job("WIDE")
    for number in range(tasks):
        job.task(f"T{number}", "app.t")
    return job


def test_time_jumps_to_the_next_window_and_starts_have_the_instants_of_a_real_night():
    played = play(wide(4), on=NIGHT, at=datetime(2026, 6, 1, 7, 45, tzinfo=OSLO), durations=6 * 3600)
    assert [f"{start.at:%H:%M}" for start in played.starts] == ["08:00", "14:00", "18:00", "20:00"]
    assert f"{played.ended_at:%a %H:%M}" == "Tue 02:00"


def test_nothing_starts_in_a_gap_between_windows():
    played = play(wide(3), on=NIGHT, at=datetime(2026, 6, 1, 7, 0, tzinfo=OSLO), durations=45 * 60)
    assert [f"{start.at:%H:%M}" for start in played.starts] == ["07:00", "07:00", "08:00"]


def test_hours_pass_as_they_do_when_the_clock_is_changed():
    job = Job("J")
    job.task("A", "app.a")
    before = datetime(2027, 3, 28, 1, 30, tzinfo=OSLO)
    assert play(job, at=before, durations=3600).ended_at == datetime(2027, 3, 28, 3, 30, tzinfo=OSLO)


def test_servers_are_a_number_of_threads_or_a_mapping():
    assert {start.at for start in play(wide(3), on=3).starts} == {START}
    played = play(wide(3), on={"A": 1, "B": ServerSpec(threads=2)})
    assert sorted(start.server for start in played.starts) == ["A", "B", "B"]


# --- what cannot be played ----------------------------------------------------------------------------------


def test_an_unknown_task_is_named_with_the_closest():
    with pytest.raises(NotFound, match=r"^No task 'TASK 77' \(closest: 'TASK 7'\)\.$"):
        play(JOB_1, failing=["TASK 77"])
    with pytest.raises(NotFound, match=r"^No task 'TASK 77'"):
        play(JOB_1, durations={"TASK 77": 3})
    with pytest.raises(NotFound, match=r"^No task 'TASK 77'"):
        play(JOB_1).why("TASK 77")


def test_a_job_that_cannot_run_says_which_task_waits_and_for_what():
    job = Job("J")
    job.task("A", "app.a", group="BG1")
    with pytest.raises(Conflict, match=r"^J never ends\. A cannot start: BG1: no server serves this group\.$"):
        play(job, on={"AOS1": ServerSpec(groups=("BG2",))})
    with pytest.raises(Conflict, match=r"^J never ends\. A cannot start: BG1: Batch1 has no threads\.$"):
        play(job, on=0)


def test_a_job_that_takes_longer_than_a_year_does_not_end():
    with pytest.raises(Conflict, match=r"^WIDE does not end within a year\. T1 executes\.$"):
        play(wide(2), on=1, durations=timedelta(days=360))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"failing": {"A": "crash"}}, "A cannot fail by 'crash'. Use error, lost, timed out."),
        ({"failing": {"A": -1}}, "A cannot fail -1 times. Use 0 or more."),
        (
            {"failing": {"A": None}},
            "A cannot fail by None. Use a number of attempts, error, lost, timed out, or a list.",
        ),
        ({"durations": "1h"}, "durations: 'A' cannot take '1h'. Use seconds, or a timedelta."),
        ({"on": {}}, "on: no server is named. Name one, or leave `on` out for two of one thread each."),
        ({"failing": {"A": ["timed out"]}}, "A has no time limit, so it cannot be timed out. Give it one."),
        ({"durations": -1}, "durations: 'A' cannot take -1 s. Use 0 or more, up to a year."),
        ({"on": -1}, "on: Batch1.threads: "),
        ({"at": datetime(2026, 6, 1)}, "at: 2026-06-01 00:00:00 has no time zone. "),
    ],
)
def test_wrong_options_are_told_in_a_sentence(options: dict[str, object], said: str):
    with pytest.raises(InvalidInput) as refused:
        play(pair("success"), **options)
    assert str(refused.value).startswith(said)


def test_what_holds_no_job_is_told_in_a_sentence():
    with pytest.raises(InvalidInput, match=r"^No job can be read from a dict\. Use a Job, a path, or a text\.$"):
        play({"tasks": {"A": "app.a"}})


def test_play_plays_one_job_and_names_what_plays_more():
    two = "jobs: {J: {tasks: {A: a}}, K: {tasks: {A: a}}}\n"
    with pytest.raises(InvalidInput, match=r"^There is not one job, but 2\. `play_all` plays several\.$"):
        play(two)
    assert play_all(two).keys() == {"J", "K"}
    with pytest.raises(InvalidInput, match=r"^Two of these jobs have the same name\.$"):
        play_all([pair("success"), pair("error")])


# --- how it reads -------------------------------------------------------------------------------------------


@pytest.fixture
def second_fails() -> Played:
    return play(pair("error"), at=datetime(2026, 6, 1, 22, tzinfo=OSLO))


def test_a_result_is_a_line_where_an_assertion_fails(second_fails: Played):
    assert repr(second_fails) == "<J: success; success A; didnt_run B>"


def test_a_result_prints_a_line_for_each_task(second_fails: Played):
    assert str(second_fails).splitlines() == [
        "J: Ended at 2026-06-01 22:01:00 CEST",
        "  A  Ended       Batch1 2026-06-01 22:00:00 CEST",
        "  B  Didn't run  A did not fail",
    ]


def test_a_rehearsal_needs_neither_celery_nor_a_folder(tmp_path: Path):
    program = (
        "import sys; from batchq.testing import play; "
        "assert play('job: J\\ntasks: {A: app.a}').verdict == 'success'; "
        "assert 'celery' not in sys.modules and 'kombu' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_instants_are_in_the_zone_of_the_clock():
    assert play(JOB_1).ended_at.tzinfo is UTC
    assert play(JOB_1, at=datetime(2026, 6, 1, 22, tzinfo=OSLO)).starts[0].at.tzinfo is OSLO
