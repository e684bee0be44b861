"""Bad input within 8 MB is refused in under 2 s and 256 MB, and nothing recurses on the depth of a graph."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ruamel.yaml

from batchq.errors import InvalidInput
from batchq.spec import TaskSpec, loads

MANY = 100_000
NEEDS_C = pytest.mark.skipif(
    not ruamel.yaml.__with_libyaml__, reason="large YAML is read in time only by ruamel.yaml.clib"
)


def job(tasks: dict[str, object]) -> str:
    return json.dumps({"job": "J", "tasks": tasks})


def yaml_job(tasks: dict[str, str]) -> str:
    return "job: J\ntasks:\n" + "".join(f"  {name}: {form}\n" for name, form in tasks.items())


def names(count: int) -> list[str]:
    return [f"T{number}" for number in range(count)]


def circle(count: int) -> dict[str, object]:
    return {name: {"run": "x", "after": before} for before, name in zip(names(count)[-1:] + names(count), names(count))}


def chain(count: int) -> dict[str, object]:
    tasks = circle(count)
    tasks["T0"] = "x"
    return tasks


CORPUS = {
    "a megabyte of zeros": ("yaml", lambda: "\0" * 1_000_000, "holds a NUL character"),
    "nine megabytes": ("yaml", lambda: "#" * 9_000_000, "is larger than 8,388,608 bytes"),
    "half a million tasks": ("json", lambda: job(dict.fromkeys(map(hex, range(500_000)), "x")), "more than 100,000 tasks"),
    "half a million tasks in six jobs": (
        "json",
        lambda: json.dumps({"jobs": {name: {"tasks": dict.fromkeys(map(hex, range(80_000)), "x")} for name in "ABCDEF"}}),
        "more than 100,000 tasks",
    ),
    "a circle of 100,000": ("json", lambda: job(circle(MANY)), "these tasks wait for each other in a circle: 'T0' → 'T1'"),
    "a circle of 2": ("json", lambda: job(circle(2)), "'T0' → 'T1' → 'T0'"),
    "a circle of 1": ("json", lambda: job(circle(1)), "waits for itself"),
    "100,000 conditions that dangle": (
        "json",
        lambda: job({name: {"run": "x", "after": f"{name}0x"} for name in names(MANY)}),
        "no task named 'T0x'",
    ),
    "100,000 faulty tasks": ("json", lambda: job({name: {"run": 3} for name in names(MANY)}), "must be text, not 3"),
    "2,700,000 lists": ("json", lambda: "[" + "[]," * 2_700_000 + "[]]", "more than 600,000 lists and mappings"),
    "2,700,000 arguments": (
        "json",
        lambda: job({"T": {"run": "x", "args": ["a"] * 1_400_000}}),
        "args: takes more than 65,536 bytes as JSON",
    ),
    "half a million open brackets": ("json", lambda: "[" * 500_000, "is nested deeper than 100 levels"),
    "a name of 8 MB": ("json", lambda: job({"T": {"run": "x", "after": "a" * 8_000_000}}), "no task named 'aaa"),
    "a key that is there twice, at the end": (
        "json",
        lambda: job(chain(MANY))[:-2] + ', "T0": "x"}}',
        "the key 'T0' is there twice",
    ),
    "half a megabyte of TOML brackets": ("toml", lambda: "a = " + "[" * 500_000, "is nested deeper than 100 levels"),
    "a TOML key of 250,000 parts": ("toml", lambda: "a." * 250_000 + "b = 1", "a key of more than 40 parts"),
    "two megabytes of TOML": ("toml", lambda: "#" * 2_000_000, "is TOML of more than 524,288 characters"),
    "eight million open YAML lists": ("yaml", lambda: "[" * 8_000_000, "is nested deeper than 100 levels"),
    "four million YAML dashes": ("yaml", lambda: "- " * 4_000_000, "is nested deeper than 100 levels"),
    "aliases of aliases of aliases": (
        "yaml",
        lambda: "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)),
        "more than 10,000 values behind aliases",
    ),
    "half a million YAML directives": ("yaml", lambda: "%TAG !a! x\n" * 500_000, "a directive"),
}  # fmt: skip

YAML_CORPUS = {
    "a YAML scalar of 8 MB": (lambda: "a" * 8_000_000, "must be a mapping"),
    "a million YAML tasks": (
        lambda: "job: J\ntasks:\n" + "".join(f" {n:x}: x\n" for n in range(700_000)),
        "more than 100,000 tasks",
    ),
    "2,500,000 YAML arguments": (
        lambda: "job: J\ntasks: {T: {run: x, args: [" + "ab," * 2_500_000 + "]}}",
        "more than 100,000 entries in a list",
    ),
    "600,000 YAML anchors": (
        lambda: "a:\n" + "".join(f"- &a{n} x\n" for n in range(500_000)),
        "more than 100,000 entries in a list",
    ),
}


def assert_refused_in_time(text: str, format: str, said: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidInput) as refused:
        loads(text, format=format)
    assert time.process_time() - started < 2
    assert said in str(refused.value)
    assert len(str(refused.value)) < 5000


@pytest.mark.parametrize("case", CORPUS)
def test_large_and_nasty_files_are_refused_in_time(case):
    format, text, said = CORPUS[case]
    assert_refused_in_time(text(), format, said)


@NEEDS_C
@pytest.mark.parametrize("case", YAML_CORPUS)
def test_large_yaml_files_are_refused_in_time(case):
    text, said = YAML_CORPUS[case]
    assert_refused_in_time(text(), "yaml", said)


MEASURE = """
import resource, sys
from batchq.errors import InvalidInput
from batchq.spec import load
try:
    load(sys.argv[1])
except InvalidInput:
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("case", ["half a million tasks", "a circle of 100,000", "2,700,000 arguments"])
def test_a_large_file_is_refused_within_256_megabytes(case, tmp_path: Path):
    format, text, _ = CORPUS[case]
    path = tmp_path / f"large.{format}"
    path.write_text(text())
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 256 * 1024


@pytest.mark.parametrize("shape", ["chain", "fan-in", "fan-out"])
def test_jobs_of_100_000_tasks_are_read_in_time(shape):
    tasks = {
        "chain": lambda: chain(MANY),
        "fan-in": lambda: dict.fromkeys(names(MANY - 1), "x") | {"end": {"run": "x", "after": names(MANY - 1)}},
        "fan-out": lambda: {"start": "x"} | {name: {"run": "x", "after": "start"} for name in names(MANY - 1)},
    }[shape]()
    started = time.process_time()
    spec = loads(job(tasks), format="json").jobs["J"]
    assert time.process_time() - started < 8
    assert len(spec.tasks) == MANY
    assert sum(len(task.after) for task in spec.tasks) == MANY - 1


@NEEDS_C
def test_a_yaml_job_of_100_000_tasks_is_read_in_time():
    text = yaml_job(
        {name: f"{{run: x, after: T{number - 1}}}" if number else "x" for number, name in enumerate(names(MANY))}
    )
    started = time.process_time()
    spec = loads(text).jobs["J"]
    assert time.process_time() - started < 12
    assert spec.tasks[-1] == TaskSpec(name=f"T{MANY - 1}", run="x", after=f"T{MANY - 2}")


def test_the_last_fault_of_a_large_file_has_its_line():
    lines = [f'"T{number}": {{"run": "x"}},' for number in range(20_000)]
    text = '{"job": "J", "tasks": {\n' + "\n".join(lines) + '\n"end": {"run": "x", "after": "T199x9"}}}'
    with pytest.raises(InvalidInput) as refused:
        loads(text, format="json")
    assert str(refused.value) == "<text>:20002: tasks.end.after: no task named 'T199x9' (closest: 'T1999')."


def test_a_large_yaml_file_says_the_same_as_a_small_one():
    """Above a size another reader may be at work, if it is installed."""
    small = yaml_job({name: "{run: x, kwargs: {a: [1, '08:00', null, 0x1F, .5]}}" for name in names(10)})
    large = small + "".join(f"  # {'-' * 98}\n" for _ in range(2000))
    assert loads(large) == loads(small)
    for text in (small, large):
        with pytest.raises(InvalidInput) as refused:
            loads(text + "  T5: x\n")
        assert str(refused.value) == f"<text>:{text.count(chr(10)) + 1}: the key 'T5' is there twice."
