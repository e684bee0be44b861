"""Large jobs are read in time, and nothing recurses on the depth of a graph; what is refused is in the corpus."""

from __future__ import annotations

import json
import time

import pytest
import ruamel.yaml

from batchq.errors import InvalidInput
from batchq.spec import JobSpec, TaskSpec, loads

MANY = 100_000
NEEDS_C = pytest.mark.skipif(
    not ruamel.yaml.__with_libyaml__, reason="large YAML is read in time only with ruamel.yaml.clib"
)


def job(tasks: dict[str, object]) -> str:
    return json.dumps({"job": "J", "tasks": tasks})


def yaml_job(tasks: dict[str, str]) -> str:
    return "job: J\ntasks:\n" + "".join(f"  {name}: {form}\n" for name, form in tasks.items())


def names(count: int) -> list[str]:
    return [f"T{number}" for number in range(count)]


def circle(count: int) -> dict[str, object]:
    ring = names(count)
    return {name: {"run": "x", "after": before} for before, name in zip([ring[-1], *ring], ring, strict=False)}


def chain(count: int) -> dict[str, object]:
    return circle(count) | {"T0": "x"}


def fan_in(count: int) -> dict[str, object]:
    return dict.fromkeys(names(count - 1), "x") | {"end": {"run": "x", "after": names(count - 1)}}


def fan_out(count: int) -> dict[str, object]:
    return {"start": "x"} | {name: {"run": "x", "after": "start"} for name in names(count - 1)}


def read_in_time(text: str, format: str, seconds: float) -> JobSpec:
    started = time.process_time()
    spec = loads(text, format=format).jobs["J"]
    assert time.process_time() - started < seconds
    assert len(spec.tasks) == MANY
    assert sum(len(task.after) for task in spec.tasks) == MANY - 1
    return spec


@pytest.mark.parametrize(
    "shape", [chain, pytest.param(fan_in, marks=pytest.mark.slow), pytest.param(fan_out, marks=pytest.mark.slow)]
)
def test_jobs_of_100_000_tasks_are_read_in_time(shape):
    read_in_time(job(shape(MANY)), "json", seconds=10)


@NEEDS_C
@pytest.mark.slow
def test_a_yaml_job_of_100_000_tasks_is_read_in_time():
    tasks = {name: f"{{run: x, after: {before}}}" for before, name in zip(names(MANY), names(MANY)[1:], strict=False)}
    spec = read_in_time(yaml_job({"T0": "x"} | tasks), "yaml", seconds=20)
    assert spec.tasks[-1] == TaskSpec(name=f"T{MANY - 1}", run="x", after=f"T{MANY - 2}")


def test_the_last_fault_of_a_large_file_has_its_line():
    lines = [f'"T{number}": {{"run": "x"}},' for number in range(20_000)]
    text = '{"job": "J", "tasks": {\n' + "\n".join(lines) + '\n"end": {"run": "x", "after": "T199x9"}}}'
    with pytest.raises(InvalidInput) as refused:
        loads(text, format="json")
    assert str(refused.value) == "<text>:20002: tasks.end.after: no task named 'T199x9' (closest: 'T1999')."


def test_a_large_yaml_file_says_the_same_as_a_small_one():
    """Above a size another reader is at work, if it is installed."""
    small = yaml_job(dict.fromkeys(names(10), "{run: x, kwargs: {a: [1, '08:00', null, 0x1F, .5]}}"))
    large = small + "".join(f"  # {'-' * 98}\n" for _ in range(2000))
    assert loads(large) == loads(small)
    for text in (small, large):
        with pytest.raises(InvalidInput) as refused:
            loads(text + "  T5: x\n")
        assert str(refused.value) == f"<text>:{text.count(chr(10)) + 1}: the key 'T5' is there twice."
