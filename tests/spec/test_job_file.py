"""What a job file may say, and what is read from it (rules 3, 10, 17)."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchq.core.conditions import Condition, Join
from batchq.core.states import SYNONYMS, Outcome
from batchq.core.windows import threads_at
from batchq.errors import InvalidInput
from batchq.spec import Document, GroupSpec, JobSpec, ServerSpec, TaskSpec, load, loads

EXAMPLES = Path(__file__).parents[2] / "examples"

SUCCESS, ERROR, FINISHED = Outcome.SUCCESS, Outcome.ERROR, Outcome.FINISHED


def job(text: str) -> JobSpec:
    (spec,) = loads(text).jobs.values()
    return spec


def task(text: str) -> TaskSpec:
    """The last task of a job that has TASK 1, TASK 2 and this one."""
    return job(f"job: J\ntasks:\n  TASK 1: x\n  TASK 2: x\n  T: {text}\n").tasks[-1]


def test_the_job_of_the_introduction_is_read_as_it_is_drawn():
    spec = load(EXAMPLES / "job1.yaml").jobs["JOB 1"]
    assert spec.name == "JOB 1"
    assert [task.name for task in spec.tasks] == [f"TASK {number}" for number in range(1, 8)]
    assert {task.name: task.after for task in spec.tasks if task.after} == {
        "TASK 2": (Condition("TASK 1", FINISHED),),
        "TASK 3": (Condition("TASK 2", SUCCESS),),
        "TASK 4": (Condition("TASK 2", SUCCESS),),
        "TASK 5": (Condition("TASK 2", ERROR),),
        "TASK 6": (Condition("TASK 3", ERROR),),
        "TASK 7": (Condition("TASK 3", SUCCESS), Condition("TASK 4", SUCCESS)),
    }
    assert all(task.run == "demo.work" and task.join is Join.ALL for task in spec.tasks)
    assert spec.tasks[2].kwargs == {"seconds": 1}


def test_toml_says_the_same_as_yaml():
    assert load(EXAMPLES / "job1.toml") == load(EXAMPLES / "job1.yaml")


def test_the_group_example_binds_bg1_to_two_of_three_servers():
    document = load(EXAMPLES / "groups.yaml")
    assert {name: server.groups for name, server in document.servers.items()} == {
        "AOS1": (),
        "AOS2": ("BG1",),
        "AOS3": ("BG1",),
    }
    assert {task.group for task in document.jobs["GROUPS"].tasks} == {"BG1", None}


def test_the_night_example_has_no_threads_between_its_windows():
    windows = [spec.window for spec in load(EXAMPLES / "night-window.yaml").servers["AOS1"].windows]
    from datetime import datetime
    from zoneinfo import ZoneInfo

    def threads(clock: str) -> int:
        instant = datetime.fromisoformat(f"2026-03-04T{clock}").replace(tzinfo=ZoneInfo("Europe/Oslo"))
        return threads_at(windows, 1, instant)

    clocks = ["07:29:59", "07:30", "07:59:59", "08:00", "17:59:59", "18:00", "23:59:59", "00:00"]
    assert [threads(clock) for clock in clocks] == [20, 0, 0, 2, 2, 20, 20, 20]


@pytest.mark.parametrize(
    ("after", "conditions"),
    [
        ("TASK 2", [("TASK 2", SUCCESS, False)]),
        ("{TASK 1: finished}", [("TASK 1", FINISHED, False)]),
        ("{TASK 1: finished, TASK 2: error}", [("TASK 1", FINISHED, False), ("TASK 2", ERROR, False)]),
        ("{TASK 1: {outcome: error, handles: true}}", [("TASK 1", ERROR, True)]),
        ("{TASK 1: {outcome: finished}}", [("TASK 1", FINISHED, False)]),
        ("[TASK 1, TASK 2]", [("TASK 1", SUCCESS, False), ("TASK 2", SUCCESS, False)]),
        ("[TASK 1, {TASK 2: error}]", [("TASK 1", SUCCESS, False), ("TASK 2", ERROR, False)]),
        ("[]", []),
        ("", []),
    ],
)
def test_after_has_a_form_for_every_need(after, conditions):
    assert task(f"{{run: x, after: {after}}}").after == tuple(Condition(*each) for each in conditions)


@pytest.mark.parametrize(("word", "outcome"), SYNONYMS.items())
def test_every_synonym_of_an_outcome_is_taken_in_any_case(word, outcome):
    for spelling in (word, word.upper(), word.title()):
        assert task(f"{{run: x, after: {{TASK 1: {spelling}}}}}").after == (Condition("TASK 1", outcome),)


def test_two_outcomes_of_one_task_go_together_with_join_any():
    spec = task("{run: x, join: any, after: [{TASK 1: success}, {TASK 1: error}]}")
    assert spec.join is Join.ANY
    assert spec.after == (Condition("TASK 1", SUCCESS), Condition("TASK 1", ERROR))


def test_a_task_of_only_a_name_is_short_for_run():
    assert task("demo.work") == task("{run: demo.work}")


def test_what_is_not_said_has_its_default():
    assert task("x") == TaskSpec(name="T", run="x")
    spec = task("x")
    assert (spec.args, spec.kwargs, spec.after, spec.join) == ([], {}, (), Join.ALL)
    assert (spec.group, spec.priority, spec.time_limit, spec.duration) == (None, None, None, None)
    assert (spec.retries, spec.retry_delay, spec.ignore_failure) == (0, 0, False)
    assert (spec.retry_backoff, spec.retry_delay_max, spec.retry_jitter) == (1, None, 0)
    assert (spec.retry_on, spec.retry_never_on, spec.repeatable) == (None, None, False)
    assert loads("servers: {AOS1: }").servers == {"AOS1": ServerSpec(threads=1)}
    assert loads("groups: {BG1: }").groups == {"BG1": GroupSpec(priority="normal")}


def test_every_key_of_a_task_and_a_job_is_read():
    spec = job(
        """
        job: J
        group: BG1
        priority: high
        run_by: anna
        company: NO01
        tasks:
          T:
            run: x
            args: [1, two, {three: [4.5, null, true]}]
            kwargs: {a: "08:00"}
            group: BG2
            priority: critical
            retries: 5
            retry_delay: 2.5
            retry_backoff: 2
            retry_delay_max: 60
            retry_jitter: 0.2
            retry_on: [ConnectionError, batchq.Lost]
            retry_never_on: ["shop.f.<locals>.Late"]
            repeatable: true
            time_limit: 60
            duration: 45
            ignore_failure: true
        """
    )
    assert (spec.group, spec.priority, spec.run_by, spec.company) == ("BG1", "high", "anna", "NO01")
    assert spec.tasks[0] == TaskSpec(
        name="T",
        run="x",
        args=[1, "two", {"three": [4.5, None, True]}],
        kwargs={"a": "08:00"},
        group="BG2",
        priority="critical",
        retries=5,
        retry_delay=2.5,
        retry_backoff=2,
        retry_delay_max=60,
        retry_jitter=0.2,
        retry_on=("ConnectionError", "batchq.Lost"),
        retry_never_on=("shop.f.<locals>.Late",),
        repeatable=True,
        time_limit=60,
        duration=45,
        ignore_failure=True,
    )


def test_one_file_holds_several_jobs_groups_and_servers():
    document = loads(
        """
        jobs:
          JOB 1: {tasks: {A: x}}
          JOB 2: {tasks: {A: x, B: {run: y, after: A}}, priority: low}
        groups: {BG1: {priority: high}}
        servers: {AOS1: {threads: 8, groups: [BG1, default]}}
        """
    )
    assert document == Document(
        jobs={
            "JOB 1": JobSpec(name="JOB 1", tasks=(TaskSpec(name="A", run="x"),)),
            "JOB 2": JobSpec(
                name="JOB 2",
                priority="low",
                tasks=(TaskSpec(name="A", run="x"), TaskSpec(name="B", run="y", after="A")),
            ),
        },
        groups={"BG1": GroupSpec(priority="high")},
        servers={"AOS1": ServerSpec(threads=8, groups=("BG1", "default"))},
    )


def test_a_window_is_read_with_its_days_in_the_order_of_the_week():
    (window,) = (
        loads(
            "servers: {A: {windows: [{start: 08:00, end: '18:00:30', threads: 2, "
            "timezone: Europe/Oslo, days: [Friday, mon]}]}}"
        )
        .servers["A"]
        .windows
    )
    assert (window.start, window.end, window.threads) == ("08:00", "18:00:30", 2)
    assert (window.timezone, window.days) == ("Europe/Oslo", ("mon", "fri"))
    assert window.window.days == frozenset({0, 4})


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("08:00", "08:00"),
        ("18:00", "18:00"),
        ("2026-03-04", "2026-03-04"),
        ("on", "on"),
        ("yes", "yes"),
        ("1_000", "1_000"),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("-1.5e3", -1500.0),
        ("true", True),
        ("~", None),
        ("'1'", "1"),
        ("1.2.3", "1.2.3"),
        ("+12", 12),
        ("..", ".."),
    ],
)
def test_yaml_values_are_those_of_the_core_schema(said, meant):
    value = task(f"{{run: x, args: [{said}]}}").args[0]
    assert (value, type(value)) == (meant, type(meant))


def test_a_percent_sign_at_the_start_of_a_line_of_text_is_text():
    assert job("{job: J, tasks: {T: {run: 'x\n%'}}}").tasks[0].run == "x %"


def test_keys_are_always_text():
    assert [each.name for each in job("job: J\ntasks: {1: x, true: x, 08:00: x, ~: x}").tasks] == [
        "1",
        "true",
        "08:00",
        "~",
    ]


def test_a_few_aliases_are_followed():
    spec = job(
        """
        job: J
        tasks:
          A: {run: x, kwargs: &seconds {seconds: 1}}
          B: {run: x, kwargs: *seconds}
        """
    )
    assert spec.tasks[1].kwargs == {"seconds": 1}


def test_json_is_read_as_json_and_as_yaml():
    text = '{"job": "J", "tasks": {"A": {"run": "x", "kwargs": {"a": [1, 2.5, "\\u00e5"]}}, "B": "y"}}'
    assert loads(text, format="json") == loads(text) == loads(text.encode())


@pytest.mark.parametrize("suffix", [".yaml", ".YML", ".job", ""])
def test_every_suffix_but_two_is_read_as_yaml(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(b"\xef\xbb\xbfjob: J\r\ntasks:\r\n  A: x\r\n")
    assert load(path) == load(str(path)) == loads("job: J\ntasks: {A: x}")


def test_a_specification_cannot_be_changed():
    spec = task("x")
    with pytest.raises(ValueError, match="frozen"):
        spec.retries = 1


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidInput) as refused:
        load(tmp_path / "none.yaml")
    assert str(refused.value) == f"{tmp_path}/none.yaml: cannot be read: No such file or directory."
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        load(tmp_path)
