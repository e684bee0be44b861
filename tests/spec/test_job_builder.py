"""Jobs written in Python are the same value as jobs read from a file, and are refused by the same rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from celery import Celery

import batchq
from batchq.core.conditions import Condition, Join, Joined
from batchq.core.states import MET_BY, Outcome, State
from batchq.errors import InvalidInput
from batchq.spec import Job, JobSpec, TaskSpec, load, loads

EXAMPLES = Path(__file__).parents[2] / "examples"


def refusal(build) -> str:
    with pytest.raises(InvalidInput) as refused:
        build()
    return str(refused.value)


def test_a_job_built_in_python_is_the_job_of_the_file():
    job = Job("JOB 1")
    t1 = job.task("TASK 1", "demo.work", kwargs={"seconds": 1})
    t2 = job.task("TASK 2", "demo.work", after=t1.finished)
    t3 = job.task("TASK 3", "demo.work", kwargs={"seconds": 1}, after=t2)
    t4 = job.task("TASK 4", "demo.work", kwargs={"seconds": 1}, after=t2.success)
    job.task("TASK 5", "demo.work", after=t2.error)
    job.task("TASK 6", "demo.work", after=t3.error)
    job.task("TASK 7", "demo.work", after=t3.success & t4.success)
    assert job.spec() == load(EXAMPLES / "job1.yaml").jobs["JOB 1"]


def test_a_celery_task_stands_for_its_name():
    app = Celery("shop", set_as_current=False)

    @app.task(name="shop.bill")
    def bill() -> None: ...

    job = Job("J")
    job.task("T", bill)
    assert job.spec().tasks[0].run == "shop.bill"


def test_every_field_reaches_the_specification():
    job = Job("J", group="BG1", priority="high", run_by="anna", company="NO01")
    job.task(
        "T", "x", args=(1, "two"), kwargs={"a": None}, join="any", group="BG2", priority="low", retries=3,
        retry_delay=1.5, retry_backoff=2, retry_delay_max=9, retry_jitter=0.5, retry_on=[OSError, "Late"],
        retry_never_on=(batchq.Lost,), repeatable=True, time_limit=60, duration=45.5, ignore_failure=True,
    )  # fmt: skip
    assert job.spec() == JobSpec(
        name="J", group="BG1", priority="high", run_by="anna", company="NO01",
        tasks=(
            TaskSpec(
                name="T", run="x", args=[1, "two"], kwargs={"a": None}, join=Join.ANY, group="BG2", priority="low",
                retries=3, retry_delay=1.5, retry_backoff=2, retry_delay_max=9, retry_jitter=0.5,
                retry_on=("OSError", "Late"), retry_never_on=("batchq.Lost",), repeatable=True, time_limit=60,
                duration=45.5, ignore_failure=True,
            ),
        ),
    )  # fmt: skip


def test_conditions_are_joined_by_and_or_by_or():
    job = Job("J")
    a, b, c = (job.task(name, "x") for name in "ABC")
    job.task("all", "x", after=a.success & b.error & c.finished)
    job.task("any", "x", after=a | b.error | c)
    job.task("listed", "x", after=[a, b.error, "C"], join="any")
    job.task("as in a file", "x", after={"A": "failed"})
    conditions = {task.name: (task.join, task.after) for task in job.spec().tasks if task.after}
    mixed = (Condition("A"), Condition("B", Outcome.ERROR), Condition("C", Outcome.FINISHED))
    assert conditions == {
        "all": (Join.ALL, mixed),
        "any": (Join.ANY, (*mixed[:2], Condition("C"))),
        "listed": (Join.ANY, (*mixed[:2], Condition("C"))),
        "as in a file": (Join.ALL, (Condition("A", Outcome.ERROR),)),
    }


@pytest.mark.parametrize("outcome", Outcome)
def test_a_task_has_a_property_for_each_outcome(outcome):
    job = Job("J")
    job.task("T", "x", after=getattr(job.task("A", "x"), outcome.name.lower()))
    assert job.spec().tasks[1].after == (Condition("A", outcome),)


@pytest.mark.parametrize("outcome", Outcome)
def test_only_an_outcome_that_an_error_meets_may_handle_it(outcome):
    job = Job("J")
    condition = getattr(job.task("A", "x"), outcome.name.lower()).handles
    if State.ERROR in MET_BY[outcome]:
        assert job.task("T", "x", after=condition).name == "T"
    else:
        assert "has no failure to handle" in refusal(lambda: job.task("T", "x", after=condition))


def test_a_condition_may_handle_the_failure():
    job = Job("J")
    a, b = job.task("A", "x"), job.task("B", "x")
    job.task("T", "x", after=a.error.handles & b.finished.handles)
    assert job.spec().tasks[2].after == (
        Condition("A", Outcome.ERROR, handles=True),
        Condition("B", Outcome.FINISHED, handles=True),
    )
    assert refusal(lambda: (a.error & b.error).handles).startswith("Each condition handles for itself")
    assert refusal(lambda: job.task("U", "x", after=a.success.handles)) == (
        "Job 'J': tasks.U.after: 'A' is asked for success, which has no failure to handle; use error, finished or over."
    )


def test_and_and_or_stand_within_each_other_in_brackets_as_rule_50_says():
    job = Job("J")
    a, b, c, d = (job.task(name, "x") for name in "ABCD")
    one, two, three, four = (Condition(name) for name in "ABCD")
    job.task("T", "x", after=a & (b | c.error))
    job.task("U", "x", after=(a & b) | (c & d))
    job.task("V", "x", after=a.over & b & c.skipped)
    job.task("W", "x", after=[a, b | c])
    job.task("X", "x", after={"all": ["A", {"any": ["B", {"C": "error"}]}]})
    after = {task.name: task.after for task in job.spec().tasks if task.after}
    assert after == {
        "T": (Joined(Join.ALL, (one, Joined(Join.ANY, (two, Condition("C", Outcome.ERROR))))),),
        "U": (Joined(Join.ANY, (Joined(Join.ALL, (one, two)), Joined(Join.ALL, (three, four)))),),
        "V": (Condition("A", Outcome.OVER), two, Condition("C", Outcome.SKIPPED)),
        "W": (one, Joined(Join.ANY, (two, three))),
        "X": after["T"],
    }


def test_join_stands_beside_no_join_within_the_conditions():
    job = Job("J")
    a, b, c = (job.task(name, "x") for name in "ABC")
    said = "Job 'J': tasks.T.join: cannot stand beside 'all' or 'any' in 'after', which say it."
    assert refusal(lambda: job.task("T", "x", after=a & (b | c), join="any")) == said
    assert refusal(lambda: job.task("T", "x", after={"all": ["A"]}, join="any")) == said
    assert refusal(lambda: job.task("T", "x", after=[a, b | c], join="all")) == said
    assert refusal(lambda: job.task("T", "x", after=a & b, join="any")) == (
        "Job 'J': tasks.T.join: any contradicts how the conditions are joined."
    )


def test_joins_are_five_levels_deep_at_most():
    job = Job("J")
    a, b = job.task("A", "x"), job.task("B", "x")
    after = a & b
    for level in range(4):
        after = after | a if level % 2 == 0 else after & a
    job.task("T", "x", after=after)
    assert refusal(lambda: job.task("U", "x", after=after | b)) == (
        "Job 'J': tasks.U.after: 'all' and 'any' stand within each other, 5 levels deep at most."
    )
    assert job.spec().tasks[-1].name == "T"


def test_a_gate_has_conditions_and_a_stage_and_runs_nothing_as_rules_50_and_53_say():
    job = Job("J")
    a = job.task("A", "x", stage="load")
    gate = job.gate("LOADED", after=a.over, stage="load")
    job.task("T", "x", after=gate)
    tasks = {task.name: task for task in job.spec().tasks}
    assert tasks["LOADED"].run is None
    assert {name: task.stage for name, task in tasks.items()} == {"A": "load", "LOADED": "load", "T": None}
    assert refusal(lambda: job.gate("G", after=a.error.handles)).startswith(
        "Job 'J': tasks.G.after: a gate does nothing, so it handles no failure"
    )
    assert refusal(lambda: job.gate("A")) == "Job 'J': another task is named 'A'."
    text = job.spec().model_dump_json(exclude_defaults=True)
    assert JobSpec.model_validate_json(text) == JobSpec.model_validate(job.spec().model_dump()) == job.spec()


def test_the_words_and_and_or_are_refused_where_they_would_lose_a_condition():
    job = Job("J")
    a, b = job.task("A", "x"), job.task("B", "x")
    said = "Join conditions with & or |, not with `and`, `or` or `not`."
    assert refusal(lambda: a.success and b.success) == said
    assert refusal(lambda: a or b) == said


def test_conditions_stay_within_their_job():
    one, other = Job("ONE"), Job("OTHER")
    task = one.task("A", "x")
    assert refusal(lambda: other.task("B", "x", after=task)) == "Job 'OTHER': a condition is on a task of 'ONE'."


def recursive() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"run": 7}, "run: must be text, not 7; put it in quotes"),
        ({"retries": 6}, "retries: must be at most 5, not 6"),
        ({"retry_on": "OSError"}, "retry_on: must be a list, not text"),
        ({"retry_on": [7]}, "retry_on.0: must be text, not 7; put it in quotes"),
        ({"retry_delay": 10**400}, "retry_delay: must be a number, not a huge number"),
        ({"args": "secret"}, "args: must be a list, not text"),
        ({"args": [object()]}, "args.0: must be JSON, not a Python object"),
        ({"args": recursive()}, "args: is nested deeper than 64 levels"),
        ({"kwargs": {"a": {1, 2}}}, "kwargs.a: must be JSON, not a Python set"),
        ({"kwargs": {"a": {1: 2}}}, "kwargs.a: the key 1 must be text"),
        ({"kwargs": {"a": float("nan")}}, "kwargs.a: must be a finite number, not nan"),
        ({"kwargs": 7}, "kwargs: must be a mapping, not 7"),
        ({"kwargs": {"a": "x" * 70_000}}, "kwargs: takes more than 65,536 bytes as JSON"),
        ({"after": {"A": "no"}}, "after.A: no outcome 'no'; use success, error, finished, skipped or over"),
        ({"join": "one"}, "join: must be 'all' or 'any', not 'one'"),
        ({"group": "a\nb"}, r"group: the name 'a\nb' holds U+000A, which does not show; leave it out"),
    ],
)
def test_a_task_that_breaks_a_rule_is_refused_at_once(fields, said):
    job = Job("J")
    assert refusal(lambda: job.task("T", **{"run": "x", **fields})) == f"Job 'J': tasks.T.{said}."


def test_a_job_that_breaks_a_rule_is_refused():
    assert refusal(Job("J").spec) == "Job 'J': tasks: a job needs at least one task."
    job = Job("J")
    job.task("TASK 1", "x", after="TASK 2")
    assert refusal(lambda: job.task("TASK 1", "x")) == "Job 'J': another task is named 'TASK 1'."
    assert refusal(job.spec) == "Job 'J': tasks.TASK 1.after: no task named 'TASK 2' (closest: 'TASK 1')."
    job.task("TASK 2", "x", after="TASK 1")
    assert refusal(job.spec) == (
        "Job 'J': tasks.TASK 2.after: these tasks wait for each other in a circle: "
        "'TASK 1' → 'TASK 2' → 'TASK 1'; take one condition out."
    )


def test_a_specification_made_by_hand_is_held_to_the_same_rules():
    with pytest.raises(ValueError, match="another task has the same name"):
        JobSpec(name="J", tasks=(TaskSpec(name="A", run="x"), TaskSpec(name="A", run="y")))
    with pytest.raises(ValueError, match="waits for itself"):
        JobSpec(name="J", tasks=(TaskSpec(name="A", run="x", after="A"),))


def test_a_dumped_job_is_read_back():
    job = Job("J")
    a = job.task("A", "x", args=[1, None, {"a": [True]}])
    job.task("B", "x", after=a.error.handles | a.success, retries=2)
    spec = job.spec()
    text = spec.model_dump_json(exclude_defaults=True)
    assert json.loads(text)["tasks"][1] == {
        "name": "B",
        "run": "x",
        "after": [{"A": {"outcome": "error", "handles": True}}, {"A": "success"}],
        "join": "any",
        "retries": 2,
    }
    assert JobSpec.model_validate_json(text) == JobSpec.model_validate(spec.model_dump()) == spec


def test_arguments_are_secret_in_python_as_in_a_file():
    job = Job("J")
    job.task("A", "x", kwargs={"user": "ops", "password": "hunter2"}, secret=["password"])
    form = "{run: x, kwargs: {user: ops, password: hunter2}, secret: [password]}"
    assert job.spec() == loads(f"job: J\ntasks: {{A: {form}}}").jobs["J"]
    assert "hunter2" not in repr(job.spec())
    with pytest.raises(InvalidInput, match="no 'password' in kwargs"):
        job.task("B", "x", secret=["password"])
