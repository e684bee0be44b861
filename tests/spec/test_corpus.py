"""Everything nasty that a file can be: all of it is `pytest tests/spec/test_corpus.py`.

Each file is submitted by a process of its own, which must end with exit code 2, one line with file, line and field, and
nothing stored, within 2 s and 256 MB. The processes are forked from one that has imported the program: to import it
takes longer than most files. The time is the processor's, and a slow one gets two more tries, since others share it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from batchq.spec import loads
from spec.test_large_files import MANY, NEEDS_C, chain, circle, job, names

SECONDS = 2.0
KILOBYTES = 256 * 1024
TRIES = 3
MB = 1024 * 1024
FORKS = """
import json, os, sys
import batchq.app, batchq.cli, batchq.engine, batchq.server.tickets, batchq.spec, batchq.store.schema
batchq.app.demo_app().operations()
for line in sys.stdin:
    words, out = json.loads(line)
    child = os.fork()
    if not child:
        sys.argv = ["batchq", *words]
        for number in (1, 2):
            os.dup2(os.open(f"{out}.{number}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        try:
            batchq.cli.main()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            error = sys.exc_info()[1]
            if not isinstance(error, SystemExit):
                sys.excepthook(*sys.exc_info())
            os._exit(error.code or 0 if isinstance(error, SystemExit) else 1)
    _, status, used = os.wait4(child, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss]), flush=True)
"""


def tasks(task: str) -> str:
    return f"job: J\ntasks:\n  A: x\n  T: {task}\n"


def window(**changed: str) -> str:
    fields = {"start": "'08:00'", "end": "'18:00'", "threads": "1", "timezone": "Europe/Oslo", **changed}
    return (
        "servers:\n  A:\n    windows:\n      - {"
        + ", ".join(f"{key}: {value}" for key, value in fields.items())
        + "}\n"
    )


def several(jobs: int, tasks: int) -> str:
    return json.dumps({"jobs": {name: {"tasks": dict.fromkeys(names(tasks), "x")} for name in names(jobs)}})


def many_windows() -> str:
    clocks = [f"{minute // 60:02}:{minute % 60:02}" for minute in range(51)]
    windows = [{"start": start, "end": end, "threads": 1, "timezone": "UTC"} for start, end in pairwise(clocks)]
    return json.dumps({"servers": {name: {"windows": windows} for name in names(500)}})


def laughs() -> str:
    lines = (f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    return "a0: &a0 [x]\n" + "".join(lines)


# The name of the file, what is in it, and what is said of it besides that name.
SMALL: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("a.yaml", "", ":1: holds no job"),
    "blank": ("a.json", " \n", ":2: is not JSON"),
    "binary": ("a.yaml", b"\x7fELF\x02\x01\x01\x00\xff", ":1: is not UTF-8 text"),
    "gzip": ("a.json", b"\x1f\x8b\x08\x00\x00", ":1: is not UTF-8 text"),
    "UTF-16": ("a.yaml", "job: J".encode("utf-16"), ":1: is not UTF-8 text"),
    "NUL": ("a.toml", 'job = "J"\n\0', ":2: holds a NUL character"),
    "a tag": ("a.yaml", tasks("{run: !!python/object/apply:os.system [id]}"), ":4: the tag '!!python/object/apply:os"),
    "a tag of an object": ("a.yaml", tasks("!!python/object:os.system {}"), ":4: the tag '!!python/object:os.system'"),
    "laughs": ("a.yaml", laughs(), "more than 10,000 values behind aliases"),
    "an alias of itself": ("a.yaml", "job: &a [*a]", ":1: no anchor named 'a'"),
    "a key twice": ("a.yaml", "job: J\ntasks:\n  A: x\n  A: x\n", ":4: the key 'A' is there twice"),
    "a key twice in JSON": ("a.json", '{"job": "J",\n"job": "K"}', ":2: the key 'job' is there twice"),
    "a dangling condition": ("a.yaml", tasks("{run: x, after: {B: error}}"), ":4: tasks.T.after: no task named 'B'"),
    "a circle of 1": ("a.yaml", tasks("{run: x, after: T}"), ":4: tasks.T.after: the task waits for itself"),
    "NaN": ("a.yaml", tasks("{run: x, args: [.nan]}"), ":4: tasks.T.args.0: must be a finite number"),
    "NaN in JSON": ("a.json", '{"job": "J", "tasks": {"T": {"run": "x", "retry_delay": NaN}}}', "must be a finite"),
    "a NaN of seconds": ("a.yaml", tasks("{run: x, time_limit: .nan}"), ":4: tasks.T.time_limit: must be"),
    "infinity": ("a.yaml", tasks("{run: x, duration: .inf}"), ":4: tasks.T.duration: must be a finite number"),
    "a huge number": ("a.yaml", tasks(f"{{run: x, args: [{2**64}]}}"), ":4: tasks.T.args.0: is a whole number of more"),
    "a huger number": ("a.yaml", tasks("{run: x, args: [" + "9" * 5000 + "]}"), ":4: holds a number of more"),
    "huge retries": ("a.yaml", tasks(f"{{run: x, retries: {10**30}}}"), ":4: tasks.T.retries: must be at most 5"),
    "half a pair": ("a.json", '{"job": "J", "tasks": {"T": {"run": "x", "args": ["\\ud800"]}}}', "args.0: holds half"),
    "half a pair as a name": ("a.json", '{"job": "\\udfff", "tasks": {"T": "x"}}', "job: the name '\\udfff'"),
    "right to left": ("a.yaml", 'job: "a\\u202eb"\ntasks: {A: x}', ":1: job: the name 'a\\u202eb' holds U+202E"),
    "no width": ("a.yaml", 'job: J\ntasks: {"a\\u200bb": x}', ":2: tasks.'a\\u200bb': the name"),
    "a name of 201": ("a.yaml", f"job: {'a' * 201}\ntasks: {{A: x}}", ":1: job: the name"),
    "arguments of 65 KiB": ("a.yaml", tasks("{run: x, args: [" + "a" * 66_560 + "]}"), ":4: tasks.T"),
    "an unregistered operation": ("a.yaml", tasks("os.system"), "J / A: no task named 'x' is registered"),
    "a path out": ("a.yaml", window(timezone="../../etc/localtime"), ":4: servers.A.windows.0.timezone: "),
    "24:00": ("a.yaml", window(end="'24:00'"), ":4: servers.A.windows.0.end: '24:00' is not a time of day"),
    "a leap second": ("a.yaml", window(end="'23:59:60'"), ":4: servers.A.windows.0.end: '23:59:60' is not a time"),
    "year 9999": ("a.yaml", window(date="'9999-12-31'"), ":4: servers.A.windows.0.date: must lie between 1970"),
    "year 0": ("a.yaml", window(date="'0000-01-01'"), ":4: servers.A.windows.0.date: "),
    "a day that is none": ("a.yaml", window(date="'2026-02-29'"), ":4: servers.A.windows.0.date: '2026-02-29' is not"),
    "negative threads": ("a.yaml", window(threads="-1"), ":4: servers.A.windows.0.threads: must be at least 0"),
    "2^63 threads": ("a.yaml", window(threads=str(2**63)), ":4: servers.A.windows.0.threads: must be at most 100,000"),
    "a secret that is not": ("a.yaml", tasks("{run: x, secret: [password]}"), ":4: tasks.T.secret: no 'password'"),
    "a secret shown": ("a.yaml", tasks("{run: x, kwargs: {p: .nan}, secret: [p]}"), ":4: tasks.T.kwargs.p: must be"),
}  # fmt: skip
# A format, what makes the text, and what is said of it.
LARGE: dict[str, tuple[str, Callable[[], str], str]] = {
    "zeros": ("yaml", lambda: "\0" * 1_000_000, "holds a NUL character"),
    "9 MB": ("yaml", lambda: "#" * 9_000_000, "is larger than 8,388,608 bytes"),
    "circle of 1": ("json", lambda: job(circle(1)), "waits for itself"),
    "circle of 2": ("json", lambda: job(circle(2)), "in a circle: 'T0' → 'T1' → 'T0'; take"),
    "circle of 100,000": ("json", lambda: job(circle(MANY)), "'T3' → … 99,994 more … → 'T99998' → 'T99999' → 'T0'"),
    "too many tasks": ("json", lambda: several(1, 400_000), "more than 100,000 tasks"),
    "too many jobs": ("json", lambda: several(4, 30_000), "more than 100,000 tasks"),
    "servers": ("json", lambda: json.dumps({"servers": dict.fromkeys(names(400_000))}), "more than 10,000 servers"),
    "windows": ("json", many_windows, "more than 2,000 windows in a file"),
    "dangling": (
        "json",
        lambda: job({name: {"run": "x", "after": f"{name}-"} for name in names(MANY)}),
        "no task named 'T7-' (closest: 'T7')",
    ),
    "faulty tasks": ("json", lambda: job({name: {"run": 3} for name in names(MANY)}), "must be text, not 3"),
    "lists": ("json", lambda: "[" + "[]," * 2_700_000 + "[]]", "more than 600,000 lists and mappings"),
    "values": ("json", lambda: "[" + "1," * 4_000_000 + "1]", "more than 1,500,000 values"),
    "arguments": ("json", lambda: job({"T": {"run": "x", "args": ["a"] * 1_400_000}}), "takes more than 65,536 bytes"),
    "open brackets": ("json", lambda: "[" * 500_000, "is nested deeper than 100 levels"),
    "long name": ("json", lambda: job({"T": {"run": "x", "after": "a" * 8_000_000}}), "no task named 'aaa"),
    "twice": ("json", lambda: job(chain(MANY))[:-2] + ', "T0": "x"}}', "the key 'T0' is there twice"),
    "TOML brackets": ("toml", lambda: "a = " + "[" * 500_000, "is nested deeper than 100 levels"),
    "TOML parts": ("toml", lambda: "a." * 250_000 + "b = 1", "a key of more than 40 parts"),
    "TOML": ("toml", lambda: "#" * 2_000_000, "is TOML of more than 524,288 characters"),
    "YAML brackets": ("yaml", lambda: "[" * 8_000_000, "is nested deeper than 100 levels"),
    "YAML dashes": ("yaml", lambda: "- " * 4_000_000, "is nested deeper than 100 levels"),
    "YAML laughs": ("yaml", laughs, "more than 10,000 values behind aliases"),
    "64 MB": ("yaml", lambda: " " * (64 * MB), "is larger than 8,388,608 bytes"),
    "a million tasks": ("json", lambda: job({})[:-2] + '"T": "x",' * 1_000_000, "is larger than 8,388,608 bytes"),
    "YAML directives": ("yaml", lambda: "%TAG !a! x\n" * 500_000, "a directive"),
}

LARGE_YAML: dict[str, tuple[Callable[[], str], str]] = {
    "scalar": (lambda: "a" * 8_000_000, "must be a mapping"),
    "tasks": (lambda: "job: J\ntasks:\n" + "".join(f" {n:x}: x\n" for n in range(700_000)), "more than 100,000 tasks"),
    "arguments": (
        lambda: "job: J\ntasks: {T: {run: x, args: [" + "ab," * 2_500_000 + "]}}",
        "more than 100,000 entries in a list",
    ),
    "anchors": (
        lambda: "a:\n" + "".join(f"- &a{n} x\n" for n in range(500_000)),
        "more than 100,000 entries in a list",
    ),
}
STRANGE_NAMES = (
    *("'; DROP TABLE batchq_run; --", '" OR "1"="1', "x) UNION SELECT 1 --", "%(name)s", ":name", "?", "$1", "\\"),
    *("$(touch x)", "`id`", "; rm -rf /", "| cat", "-rf", "--help", "&& x", "*", "~", "{0}", "%s%n", "{{7*7}}", "${x}"),
    *(
        "<script>alert(1)</script>",
        "<b>&amp;",
        "' onmouseover='x",
        "../../etc/passwd",
        "C:\\x",
        "a/b",
        ".",
        "🚚",
        "発注",
    ),
    *("[bold]x[/bold]", "[link=x]", ":smile:", "]", "null", "true", "1e3", "0x1F", "2026-01-01"),
)


@dataclass
class Forks:
    """Runs commands in forks of one ready process; tells exit code, seconds, kilobytes, and what was printed."""

    process: subprocess.Popen[str]
    out: Path

    def __call__(self, *words: str) -> tuple[int, float, int, str, str]:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps([words, str(self.out)]), file=self.process.stdin, flush=True)
        code, seconds, kilobytes = json.loads(self.process.stdout.readline())
        printed, said = (Path(f"{self.out}.{number}").read_text() for number in (1, 2))
        return code, seconds, kilobytes, printed, said


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    folder = tmp_path_factory.mktemp("forks")
    env = {"PATH": "", "BATCHQ_HOME": str(folder / "home"), "CELERY_BROKER_URL": "amqp://", "BATCHQ_TIMEZONE": "UTC"}
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=folder
    ) as process:
        yield Forks(process, folder / "said")
        assert process.stdin
        process.stdin.close()
        assert not (folder / "home").exists(), "something was stored"


def assert_refused(forks: Forks, path: Path, content: str | bytes, said: str) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for last in (False,) * (TRIES - 1) + (True,):
        code, seconds, kilobytes, printed, told = forks("submit", str(path))
        assert (code, printed) == (2, "")
        assert told.startswith("Error: ")
        assert "Traceback" not in told
        assert said in told
        assert len(told) < 5000
        assert kilobytes < KILOBYTES
        if seconds < SECONDS:
            break
        assert not last, f"{seconds:.1f} s"


@pytest.mark.parametrize("case", SMALL)
def test_a_bad_file_is_refused_with_its_place(case: str, forks: Forks, tmp_path: Path):
    name, content, said = SMALL[case]
    assert_refused(forks, tmp_path / name, content, said)


@pytest.mark.parametrize("case", LARGE)
def test_a_large_bad_file_is_refused_in_time_and_within_256_megabytes(case: str, forks: Forks, tmp_path: Path):
    format, make, said = LARGE[case]
    assert_refused(forks, tmp_path / f"a.{format}", make(), said)


@NEEDS_C
@pytest.mark.parametrize("case", LARGE_YAML)
def test_a_large_bad_yaml_file_is_too(case: str, forks: Forks, tmp_path: Path):
    make, said = LARGE_YAML[case]
    assert_refused(forks, tmp_path / "a.yaml", make(), said)


@pytest.mark.parametrize("edge", ["02:30", "02:00", "03:00", "00:00", "23:59:59"])
def test_a_time_that_a_change_of_the_clocks_leaves_out_is_no_bad_time(edge: str):
    text = window(start=f"'{edge}'", end="'04:00'", date="'2026-03-29'")
    assert loads(text).servers["A"].windows[0].start.startswith(edge)


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_name_may_be_what_it_likes_and_is_only_ever_a_name(name: str, stage):
    text = {"job": name, "run_by": name, "tasks": {name: {"run": name, "group": name, "kwargs": {name: name}}}}
    stage.server(name, groups=())
    run = stage.submit(json.dumps(text, ensure_ascii=False))
    stage.play()
    view = stage.view(run)
    assert (view["job"], view["tasks"][0]["name"], view["tasks"][0]["group"]) == (name, name, name)
    assert (view["status"], view["tasks"][0]["server"]) == ("success", name)
