"""Whatever a valid document says, every form of the file says the same."""

from __future__ import annotations

import io
import json
from datetime import date
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from batchq.core.limits import MOST_UNITS
from batchq.core.states import SYNONYMS
from batchq.core.windows import DAYS
from batchq.errors import InvalidInput
from batchq.spec import Document, Job, loads
from batchq.spec.fields import name_fault
from batchq.spec.model import MET_BY_ERROR, OF_GATES, GroupSpec, JobSpec, ServerSpec, Spec, TaskSpec, WindowSpec
from batchq.spec.yaml_text import ODD

QUIET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
json_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | json_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_text, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
priorities = st.sampled_from(["low", "normal", "high", "critical"])
errors = st.sampled_from(["OSError", "batchq.Lost", "batchq.TimedOut", "shop.errors.Late", "f.<locals>.É"])
# Two windows of one zone could overlap, so each has a zone of its own.
zones = st.lists(st.sampled_from(["Europe/Oslo", "UTC", "America/New_York"]), unique=True, max_size=3)
clocks = st.times().map(lambda clock: clock.strftime("%H:%M:%S"))


limits = st.lists(names, max_size=3, unique=True)
units = st.integers(0, MOST_UNITS)
OF_TASKS = {
    "args": st.lists(json_values, max_size=3),
    "kwargs": st.dictionaries(json_text, json_values, max_size=3),
    "stage": names,
    "group": names,
    "priority": priorities,
    "retries": st.integers(0, 5),
    "retry_delay": st.floats(0, 1e6),
    "retry_backoff": st.floats(1, 2),
    "retry_delay_max": st.floats(1e6, 1e7),
    "retry_jitter": st.floats(0, 1),
    "retry_on": st.lists(errors, min_size=1, max_size=3, unique=True),
    "retry_never_on": st.lists(errors, min_size=1, max_size=3, unique=True),
    "repeatable": st.booleans(),
    "time_limit": st.floats(0.001, 1e6),
    "duration": st.floats(0, 1e6),
    "ignore_failure": st.booleans(),
    "limits": limits,
    "join": st.sampled_from(["all", "any"]),
}
OF_JOBS = {
    "group": names,
    "priority": priorities,
    "run_by": names,
    "company": names,
    "limits": limits,
    "tasks_at_once": units,
    "one_at_a_time": st.booleans(),
}
OF_GROUPS = {"priority": priorities, "per_run": st.none() | units}
OF_WINDOWS = {
    "days": st.none() | st.lists(st.sampled_from(DAYS), min_size=1, max_size=7, unique=True),
    "date": st.dates(date(2000, 1, 1), date(2099, 12, 31)).map(str),
}


@st.composite
def tasks(draw: st.DrawFn) -> dict[str, Any]:
    """Tasks in the form of a file; each follows some before it, so there is no circle."""
    forms: dict[str, Any] = {}
    for name in draw(st.lists(names, min_size=1, max_size=6, unique=True)):
        form = draw(st.fixed_dictionaries({"run": names}, optional=OF_TASKS))
        if "kwargs" in form and draw(st.booleans()):
            shown = [key for key in form["kwargs"] if name_fault(key) is None]
            form["secret"] = draw(st.lists(st.sampled_from(shown), unique=True)) if shown else []
        is_gate = draw(st.integers(0, 4)) == 0
        if forms:
            form["after"] = draw(
                st.dictionaries(st.sampled_from(sorted(forms)), asked(handles=not is_gate), max_size=3)
            )
            if draw(st.booleans()):
                form.pop("join", None)
                form["after"] = draw(joins(sorted(forms), handles=not is_gate))
        forms[name] = {key: value for key, value in form.items() if key in OF_GATES} if is_gate else form
    return forms


def asked(*, handles: bool) -> st.SearchStrategy[Any]:
    """What a condition asks of a task: an outcome by a word, or in full."""
    words = st.sampled_from(sorted(SYNONYMS))
    plain = words | st.fixed_dictionaries({"outcome": words}, optional={"handles": st.just(False)})
    failing = st.sampled_from([word for word, outcome in SYNONYMS.items() if outcome in MET_BY_ERROR])
    return plain | st.fixed_dictionaries({"outcome": failing, "handles": st.just(True)}) if handles else plain


def joins(names: list[str], *, handles: bool) -> st.SearchStrategy[Any]:
    """Joins within each other, at most five levels deep."""
    leaves = st.sampled_from(names) | st.tuples(st.sampled_from(names), asked(handles=handles)).map(
        lambda pair: dict([pair])
    )
    within = leaves
    for _ in range(5):
        # One condition on each task: of two, `all` would refuse one.
        lists = st.lists(within, min_size=1, max_size=3, unique_by=lambda each: str(named(each)))
        within = leaves | st.tuples(st.sampled_from(["all", "any"]), lists).map(lambda pair: dict([pair]))
    return lists | within.filter(lambda each: isinstance(each, dict))


def named(condition: Any) -> str:
    """The task that a condition names, or the whole join."""
    if isinstance(condition, str):
        return condition
    ((task, asked),) = condition.items()
    return str(condition) if isinstance(asked, list) else task


@st.composite
def servers(draw: st.DrawFn) -> dict[str, Any]:
    windows = []
    for zone in draw(zones):
        window = {"start": draw(clocks), "end": draw(clocks), "threads": draw(st.integers(0, 99)), "timezone": zone}
        if key := draw(st.none() | st.sampled_from(sorted(OF_WINDOWS))):  # one of them: a date has no weekdays
            window[key] = draw(OF_WINDOWS[key])
        windows.append(window)
    return {
        "threads": draw(st.integers(0, 1000)),
        "groups": draw(st.lists(names, unique=True, max_size=3)),
        "windows": windows,
    }


jobs = st.fixed_dictionaries({"tasks": tasks()}, optional=OF_JOBS)
files = st.fixed_dictionaries(
    {"jobs": st.dictionaries(names, jobs, min_size=1, max_size=2)},
    optional={
        "servers": st.dictionaries(names, servers(), max_size=2),
        "groups": st.dictionaries(names, st.fixed_dictionaries({}, optional=OF_GROUPS), max_size=2),
        "limits": st.dictionaries(names, units, max_size=2),
    },
)


def yaml_text(value: Any) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False  # in the other style it leaves out quotes that it needs
    yaml.width = 1_000_000  # where it folds a line, the writer may lose a backslash
    yaml.sort_base_mapping_type_on_output = False
    yaml.allow_unicode = False
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("model", "drawn"),
    [
        (TaskSpec, {"name", "run", "after", "secret", *OF_TASKS}),
        (JobSpec, {"name", "tasks", *OF_JOBS}),
        (GroupSpec, {*OF_GROUPS}),
        (WindowSpec, {"start", "end", "threads", "timezone", *OF_WINDOWS}),
        (ServerSpec, {"threads", "groups", "windows"}),
        (Document, {"jobs", "servers", "groups", "limits"}),
    ],
)
def test_every_key_of_a_file_is_drawn_here(model: type[Spec], drawn: set[str]):
    assert drawn == model.model_fields.keys()


@QUIET
@given(files)
def test_json_and_yaml_say_the_same(file):
    document = loads(json.dumps(file), format="json")
    unescaped = json.dumps(file, ensure_ascii=False, indent=2)
    assert loads(unescaped, format="json") == document
    assert loads(yaml_text(file)) == document
    if not ODD.search(unescaped):
        assert loads(unescaped) == document
    assert {name: len(job.tasks) for name, job in document.jobs.items()} == {
        name: len(job["tasks"]) for name, job in file["jobs"].items()
    }


@QUIET
@given(files)
def test_a_dumped_document_is_read_back(file):
    document = loads(json.dumps(file), format="json")
    assert Document.model_validate_json(document.model_dump_json()) == document
    assert Document.model_validate_json(document.model_dump_json(exclude_defaults=True)) == document


@QUIET
@given(names, jobs)
def test_the_one_job_form_the_many_jobs_form_and_the_builder_say_the_same(name, form):
    one = loads(json.dumps({"job": name, **form}), format="json").jobs
    assert loads(json.dumps({"jobs": {name: form}}), format="json").jobs == one
    job = Job(name, **{key: value for key, value in form.items() if key != "tasks"})
    for task, fields in form["tasks"].items():
        (job.task if "run" in fields else job.gate)(task, **fields)
    assert {name: job.spec()} == one


@QUIET
@given(st.recursive(json_values | names, lambda inner: st.dictionaries(
    st.sampled_from(["job", "jobs", "tasks", "servers", "groups", "A", "run", "after", "windows", "args"]), inner
), max_leaves=20))  # fmt: skip
def test_any_other_value_is_read_or_refused_and_nothing_else(value):
    for text, format in ((json.dumps(value), "json"), (json.dumps(value), "yaml")):
        said = ""
        try:
            loads(text, format=format)
        except InvalidInput as refused:
            said = str(refused)
        assert all(line.isprintable() and line.endswith(".") for line in said.split("\n") if said)
