"""What is refused, and in which words: file, line, field and a way out (rules 1, 3, 17, 18)."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchq.errors import InvalidInput
from batchq.spec import Sizes, loads

TASKS = "job: J\ntasks:\n  A: x\n  B: x\n  T: "


def refusal(text: str | bytes, **options: object) -> str:
    with pytest.raises(InvalidInput) as refused:
        loads(text, source="job.yaml", **options)
    assert refused.value.exit_code == 2
    assert all(line.isprintable() for line in str(refused.value).split("\n"))
    return str(refused.value)


GATE = "tasks.T: 'run' is missing; without it the task is a gate, which takes 'after', 'join' and 'stage', and no"
WORDS = "use success, error, finished, skipped or over"
# What is wrong with a task, on line 5 of its file.
TASK_FAULTS = [
    ("{retries: 1}", f"{GATE} 'retries'"),
    ("{group: BG1}", f"{GATE} 'group'"),
    ("{rum: x}", "tasks.T: unknown key 'rum' (closest: 'run')"),
    ("7", "tasks.T: must be a mapping, not 7"),
    ("[x]", "tasks.T: must be a mapping, not a list"),
    ("{run: 7}", "tasks.T.run: must be text, not 7; put it in quotes"),
    ("{run: }", "tasks.T.run: must be text, not nothing"),
    ("{run: ''}", "tasks.T.run: a name must not be empty"),
    ("{run: x, name: y}", "tasks.T: unknown key 'name'"),
    ("{run: x, retry: 1}", "tasks.T: unknown key 'retry' (closest: 'retries')"),
    ("{run: x, <<: {}}", "tasks.T: unknown key '<<'"),
    ("{run: x, children: detach}", "tasks.T: 'children' does not work yet in this version"),
    ("{run: x, limits: {a: 1}}", "tasks.T.limits: must be a list, not a mapping"),
    ("{run: x, retries: 6}", "tasks.T.retries: must be at most 5, not 6"),
    ("{run: x, retries: -1}", "tasks.T.retries: must be at least 0, not -1"),
    ("{run: x, retries: '1'}", "tasks.T.retries: must be a whole number, not '1'"),
    ("{run: x, retries: true}", "tasks.T.retries: must be a whole number, not true"),
    ("{run: x, retry_delay: -0.5}", "tasks.T.retry_delay: must be at least 0, not -0.5"),
    ("{run: x, retry_delay: .inf}", "tasks.T.retry_delay: must be a finite number"),
    ("{run: x, retry_backoff: 0.5}", "tasks.T.retry_backoff: must be at least 1, not 0.5"),
    ("{run: x, retry_backoff: 1001}", "tasks.T.retry_backoff: must be at most 1,000, not 1001"),
    ("{run: x, retry_backoff: '2'}", "tasks.T.retry_backoff: must be a number, not '2'"),
    ("{run: x, retry_jitter: 1.5}", "tasks.T.retry_jitter: must be at most 1, not 1.5"),
    ("{run: x, retry_delay_max: -1}", "tasks.T.retry_delay_max: must be at least 0, not -1"),
    (
        "{run: x, retry_delay: 9, retry_delay_max: 5}",
        "tasks.T.retry_delay_max: is less than retry_delay, 9 s; leave one of them out",
    ),
    (
        "{run: x, retries: 5, retry_delay: 3600, retry_backoff: 100}",
        "tasks.T.retry_backoff: lets a retry wait for more than a year; give it a retry_delay_max",
    ),
    ("{run: x, retry_bakoff: 2}", "tasks.T: unknown key 'retry_bakoff' (closest: 'retry_backoff')"),
    ("{run: x, retry_on: ConnectionError}", "tasks.T.retry_on: must be a list, not text"),
    ("{run: x, retry_on: []}", "tasks.T.retry_on: names no error; leave it out, and all are meant"),
    ("{run: x, retry_on: [7]}", "tasks.T.retry_on.0: must be text, not 7; put it in quotes"),
    ("{run: x, retry_on: [A, A]}", "tasks.T.retry_on: 'A' is there twice"),
    (
        "{run: x, retry_on: [Connection Error]}",
        "tasks.T.retry_on.0: 'Connection Error' cannot be the name of an error's class (closest: 'ConnectionError')",
    ),
    (
        "{run: x, retry_never_on: [shop..!]}",
        "tasks.T.retry_never_on.0: 'shop..!' cannot be the name of an error's class; "
        "write it as in Python: ConnectionError, or shop.errors.Late",
    ),
    (
        "{run: x, retry_on: [batchq.Lots]}",
        "tasks.T.retry_on.0: batchq has no error 'batchq.Lots' (closest: 'batchq.Lost'); "
        "it has batchq.Final, batchq.Lost, batchq.TimedOut",
    ),
    (
        "{run: x, retry_on: [batchq.Final]}",
        "tasks.T.retry_on: batchq.Final is never tried again; leave it out",
    ),
    ("{run: x, repeatable: 1}", "tasks.T.repeatable: must be true or false, not 1"),
    ("{run: x, duration: -1}", "tasks.T.duration: must be at least 0, not -1"),
    ("{run: x, duration: an hour}", "tasks.T.duration: must be a number, not 'an hour'"),
    ("{run: x, time_limit: 0}", "tasks.T.time_limit: must be more than 0, not 0"),
    ("{run: x, time_limit: 1 h}", "tasks.T.time_limit: must be a number, not '1 h'"),
    ("{run: x, time_limit: 1.0e+300}", "tasks.T.time_limit: must be at most 31,622,400, not a huge number"),
    ("{run: x, ignore_failure: 1}", "tasks.T.ignore_failure: must be true or false, not 1"),
    ("{run: x, join: some}", "tasks.T.join: must be 'all' or 'any', not 'some'"),
    (
        "{run: x, priority: urgent}",
        "tasks.T.priority: must be 'low', 'normal', 'high' or 'critical', not 'urgent'",
    ),
    ("{run: x, group: ' BG1'}", "tasks.T.group: the name ' BG1' begins or ends with a space; leave it out"),
    ("{run: x, args: secret}", "tasks.T.args: must be a list, not text"),
    ("{run: x, kwargs: [1]}", "tasks.T.kwargs: must be a mapping, not a list"),
    ("{run: x, args: [.nan]}", "tasks.T.args.0: must be a finite number, not nan"),
    ("{run: x, kwargs: {a: [1e999]}}", "tasks.T.kwargs.a.0: must be a finite number, not inf"),
    (
        "{run: x, args: [9223372036854775808]}",
        "tasks.T.args.0: is a whole number of more than 64 bits; give it as text",
    ),
    (r'{run: x, args: ["a\0"]}', "tasks.T.args.0: holds a NUL character"),
    (r'{run: x, kwargs: {"\0": 1}}', r"tasks.T.kwargs: the key '\x00' holds a NUL character"),
    ("{run: x, kwargs: {password: 1}, secret: password}", "tasks.T.secret: must be a list, not text"),
    ("{run: x, kwargs: {password: 1}, secret: [7]}", "tasks.T.secret.0: must be text, not 7; put it in quotes"),
    ("{run: x, kwargs: {p: 1}, secret: [p, p]}", "tasks.T.secret: 'p' is there twice"),
    (
        "{run: x, kwargs: {password: 1}, secret: [pasword]}",
        "tasks.T.secret: no 'pasword' in kwargs (closest: 'password')",
    ),
    ("{run: x, after: C}", "tasks.T.after: no task named 'C'"),
    ("{run: x, after: {a: error}}", "tasks.T.after: no task named 'a' (closest: 'A')"),
    ("{run: x, after: T}", "tasks.T.after: the task waits for itself; take that condition out"),
    (
        "{run: x, after: 7}",
        "tasks.T.after: must be a task name, a mapping of task names to outcomes, "
        "or a list of these, not 7; put the name in quotes",
    ),
    (
        "{run: x, after: [[A]]}",
        "tasks.T.after: must be a task name, a mapping of task names to outcomes, or a list of these, not a list",
    ),
    (
        "{run: x, after: {A: fail}}",
        f"tasks.T.after.A: no outcome 'fail' (closest: 'failed'); {WORDS}",
    ),
    ("{run: x, after: {A: }}", f"tasks.T.after.A: no outcome nothing; {WORDS}"),
    ("{run: x, after: {A: {handles: true}}}", "tasks.T.after.A: 'outcome' is missing"),
    (
        "{run: x, after: {A: {outcome: error, handle: true}}}",
        "tasks.T.after.A: unknown key 'handle' (closest: 'handles')",
    ),
    (
        "{run: x, after: {A: {outcome: error, handles: yes}}}",
        "tasks.T.after.A.handles: must be true or false, not 'yes'",
    ),
    (
        "{run: x, after: {A: {outcome: success, handles: true}}}",
        "tasks.T.after: 'A' is asked for success, which has no failure to handle; use error, finished or over",
    ),
    (
        "{run: x, after: {A: {outcome: skipped, handles: true}}}",
        "tasks.T.after: 'A' is asked for skipped, which has no failure to handle; use error, finished or over",
    ),
    (
        "{after: {A: {outcome: error, handles: true}}}",
        "tasks.T.after: a gate does nothing, so it handles no failure; "
        "give 'A' 'ignore_failure', or let a task handle it",
    ),
    (
        "{run: x, join: all, after: {all: [A]}}",
        "tasks.T.join: cannot stand beside 'all' or 'any' in 'after', which say it",
    ),
    (
        "{run: x, join: any, after: [A, {all: [A]}]}",
        "tasks.T.join: cannot stand beside 'all' or 'any' in 'after', which say it",
    ),
    ("{run: x, after: {any: []}}", "tasks.T.after: 'any' joins no conditions; name one, or leave it out"),
    ("{run: x, after: {any: [A, A]}}", "tasks.T.after: 'A' is asked for success twice"),
    ("{run: x, after: {all: [A, {any: [C, A]}]}}", "tasks.T.after: no task named 'C'"),
    ("{run: x, after: {all: [A, {any: [T, A]}]}}", "tasks.T.after: the task waits for itself; take that condition out"),
    (
        "{run: x, after: [A, {any: [{A: fail}]}]}",
        f"tasks.T.after.1.any.0.A: no outcome 'fail' (closest: 'failed'); {WORDS}",
    ),
    ("{run: x, after: {any: [{A: fail}]}}", f"tasks.T.after.any.0.A: no outcome 'fail' (closest: 'failed'); {WORDS}"),
    (
        "{run: x, after: {any: [7]}}",
        "tasks.T.after.any: must be a task name, a mapping of task names to outcomes, "
        "or a list of these, not 7; put the name in quotes",
    ),
    ("{run: x, after: {any: A}}", f"tasks.T.after.any: no outcome 'A'; {WORDS}"),
    ("{run: x, after: {any: error}}", "tasks.T.after: no task named 'any'"),
    ("{run: x, stage: ''}", "tasks.T.stage: a name must not be empty"),
    ("{run: x, after: [A, A]}", "tasks.T.after: 'A' is asked for success twice"),
    ("{run: x, join: any, after: [A, {A: ok}]}", "tasks.T.after: 'A' is asked for success twice"),
    (
        "{run: x, after: [A, {A: error}]}",
        "tasks.T.after: 'A' is asked for success and for error; choose one, or use join: any",
    ),
]


@pytest.mark.parametrize(("task", "said"), TASK_FAULTS)
def test_a_fault_in_a_task_is_named_with_its_field(task, said):
    assert refusal(TASKS + task + "\n") == f"job.yaml:5: {said}."


@pytest.mark.parametrize("task", [task for task, _ in TASK_FAULTS])
def test_a_fault_in_a_job_among_several_has_its_jobs_name_before_it(task):
    several = "jobs:\n  J:\n    tasks:\n      A: x\n      B: x\n      T: " + task
    one = refusal(TASKS + task)
    assert refusal(several) == one.replace("job.yaml:5: tasks.", "job.yaml:6: jobs.J.tasks.")


FILES = [
    ("", 1, "holds no job, group, server or limit"),
    ("# nothing\n", 1, "holds no job, group, server or limit"),
    ("{}", 1, "holds no job, group, server or limit"),
    ("groups: {}\nservers:\njobs: {}\n", 1, "holds no job, group, server or limit"),
    ("- job: J", 1, "must be a mapping with job, jobs, groups, servers or limits, not a list"),
    ("JOB 1", 1, "must be a mapping with job, jobs, groups, servers or limits, not 'JOB 1'"),
    ("job: J", 1, "'tasks' is missing; a job needs one at least"),
    ("\n\njob: J", 3, "'tasks' is missing; a job needs one at least"),
    ("job: J\ntasks: {}", 2, "tasks: a job needs at least one task"),
    ("job: J\ntasks:", 2, "tasks: must be a mapping of task names to tasks, not nothing"),
    ("job: J\ntasks: [A]", 2, "tasks: must be a mapping of task names to tasks, not a list"),
    ("jobs: {J: {tasks: {}}}", 1, "jobs.J.tasks: a job needs at least one task"),
    ("jobs:\n  J: x", 2, "jobs.J: must be a mapping with tasks, not 'x'"),
    ("jobs: [J]", 1, "jobs: must be a mapping of names, not a list"),
    ("tasks:\n  A: x", 1, "tasks: the job has no name; give it one with 'job' at the top"),
    ("job: 7\ntasks: {A: x}", 1, "job: must be the job's name as text, not 7"),
    ("job: ''\ntasks: {A: x}", 1, "job: a name must not be empty"),
    (
        "job: J\ntasks: {A: x}\njobs: {}",
        3,
        "jobs: cannot stand beside 'job'; put that job into 'jobs' too",
    ),
    ("groups: {}\ntask: {}", 2, "unknown key 'task' (closest: 'tasks')"),
    ("job: J\ntasks: {A: x}\nevery: 1 h", 3, "'every' does not work yet in this version"),
    ("job: J\ntasks: {A: x}\ncron: x", 3, "'cron' does not work yet in this version"),
    ("job: J\ntasks: {A: x}\nstart: x", 3, "'start' does not work yet in this version"),
    ("job: J\ntasks: {A: x}\ntimezone: x", 3, "'timezone' does not work yet in this version"),
    ("job: J\ntasks: {A: x}\non_error: x", 3, "'on_error' does not work yet in this version"),
    ("job: J\ntasks: {A: x}\nrun_bye: x", 3, "unknown key 'run_bye' (closest: 'run_by')"),
    ("job: J\ntasks:\n  A: x\n  A: y\n", 4, "the key 'A' is there twice"),
    (
        "job: J\ntasks:\n  A: {run: x, after: C}\n  B: {run: x, after: A}\n  C: {run: x, after: B}\n",
        4,
        "tasks.B.after: these tasks wait for each other in a circle: 'A' → 'B' → 'C' → 'A'; take one condition out",
    ),
    (
        "groups:\n  G: {priority: 3}",
        2,
        "groups.G.priority: must be 'low', 'normal', 'high' or 'critical', not 3",
    ),
    ("groups:\n  G: {limits: 1}", 2, "groups.G: unknown key 'limits'"),
    ("groups:\n  'G ': {}", 2, "groups.G : the name 'G ' begins or ends with a space; leave it out"),
    ("servers: {A: {threads: -1}}", 1, "servers.A.threads: must be at least 0, not -1"),
    (
        "servers: {A: {threads: 9223372036854775808}}",
        1,
        "servers.A.threads: must be at most 100,000, not 9223372036854775808",
    ),
    ("servers: {A: {groups: BG1}}", 1, "servers.A.groups: must be a list, not text"),
    ("servers: {A: {groups: [BG1, BG1]}}", 1, "servers.A.groups: 'BG1' is there twice"),
    ("servers: {A: {window: []}}", 1, "servers.A: unknown key 'window' (closest: 'windows')"),
    ("servers: {A: {windows: {}}}", 1, "servers.A.windows: must be a list, not a mapping"),
    ("servers: {A: {windows: [3]}}", 1, "servers.A.windows.0: must be a mapping, not 3"),
]


@pytest.mark.parametrize(("text", "line", "said"), FILES)
def test_a_fault_in_a_file_is_named_with_its_line(text, line, said):
    assert refusal(text) == f"job.yaml:{line}: {said}."


def window(**changed: object) -> str:
    fields = {"start": "'08:00'", "end": "'18:00'", "threads": 2, "timezone": "Europe/Oslo", **changed}
    return "{" + ", ".join(f"{key}: {value}" for key, value in fields.items() if value != "") + "}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (window(start=""), "servers.A.windows.0.start: 'start' is missing"),
        (window(end=""), "servers.A.windows.0.end: 'end' is missing"),
        (window(threads=""), "servers.A.windows.0: 'threads' is missing"),
        (window(start="'8:00'"), "servers.A.windows.0.start: '8:00' is not a time of day."),
        (window(end="'24:00'"), "servers.A.windows.0.end: '24:00' is not a time of day. Write midnight as"),
        (window(end="480"), "servers.A.windows.0.end: must be text, not 480; put it in quotes"),
        (window(threads=-1), "servers.A.windows.0.threads: must be at least 0, not -1"),
        (
            window(timezone="Europe/Osloo"),
            "servers.A.windows.0.timezone: 'Europe/Osloo' is not a time zone (closest: 'Europe/Oslo'",
        ),
        (window(timezone="../etc"), "servers.A.windows.0.timezone: '../etc' is not a time zone"),
        (window(days="[mom]"), "servers.A.windows.0.days: 'mom' is not a day (closest: 'mon')"),
        (window(days="[]"), "servers.A.windows.0.days: A window without days never opens"),
        (window(until="1"), "servers.A.windows.0: unknown key 'until'"),
        (window(timezone="7"), "servers.A.windows.0.timezone: must be the name of a time zone, not 7"),
        (
            window(date="'2026-12-24'", days="[mon]"),
            "servers.A.windows.0.days: a window has a date or weekdays, not both",
        ),
        (window(date="'2026-12-24'", start=""), "servers.A.windows.0.start: 'start' is missing"),
        (window(date="'24.12.2026'"), "servers.A.windows.0.date: '24.12.2026' is not a date. Write it as text"),
        (window(date="'2026-02-29'"), "servers.A.windows.0.date: '2026-02-29' is not a date. Write it as text"),
        (window(date="20261224"), "servers.A.windows.0.date: 20261224 is not a date. Write it as text"),
    ],
)
def test_a_fault_in_a_window_is_named_with_its_field(text, said):
    assert refusal(f"servers:\n  A:\n    windows:\n      - {text}").startswith(f"job.yaml:4: {said}")


def test_windows_that_overlap_in_one_zone_are_refused_and_others_are_not():
    late = window(start="'17:30'", end="'07:00'")
    assert refusal(f"servers:\n  A:\n    windows: [{window()}, {late}]") == (
        "job.yaml:3: servers.A.windows: 08:00-18:00 and 17:30-07:00 overlap in Europe/Oslo; "
        "windows of one zone may not."
    )
    on_a_date = window(start="'05:00'", end="'07:00'", date="'2026-12-24'")
    night = window(start="'22:00'", end="'06:00'")
    assert refusal(f"servers:\n  A:\n    windows: [{night}, {on_a_date}]") == (
        "job.yaml:3: servers.A.windows: 22:00-06:00 and 05:00-07:00 on 2026-12-24 overlap in Europe/Oslo; "
        "windows of one zone may not."
    )
    elsewhere = window(start="'17:30'", end="'07:00'", timezone="UTC")
    assert len(loads(f"servers: {{A: {{windows: [{window()}, {elsewhere}]}}}}").servers["A"].windows) == 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (r"a\nb", "U+000A"),
        (r"a\0b", "U+0000"),
        (r"a\x7fb", "U+007F"),
        (r"a\u200bb", "U+200B"),
        (r"a\u202eb", "U+202E"),
        (r"a\u2066b", "U+2066"),
        (r"\ufeffb", "U+FEFF"),
        (r"a\u2028b", "U+2028"),
        (r"a\u00a0b", "U+00A0"),
    ],
)
@pytest.mark.parametrize("place", ["job", "task", "group", "operation", "server"])
def test_names_that_do_not_show_what_they_are_are_refused(name, why, place):
    text = {
        "job": f'job: "{name}"\ntasks: {{A: x}}',
        "task": f'job: J\ntasks: {{"{name}": x}}',
        "group": f'job: J\ntasks: {{A: {{run: x, group: "{name}"}}}}',
        "operation": f'job: J\ntasks: {{A: "{name}"}}',
        "server": f'servers: {{"{name}": {{}}}}',
    }[place]
    assert f"holds {why}, which does not show; leave it out." in refusal(text)


def test_names_are_taken_as_they_are_in_every_script_and_with_every_quote():
    for name in ["Bücher", "発注", "'; DROP TABLE x; --", "<b>&", "$(rm -rf /)", "../../etc", "a.b", "🚚"]:
        assert loads(f'{{"job": "{name}", "tasks": {{"{name}": "x"}}}}', format="json").jobs[name]


def test_a_name_of_more_than_200_characters_is_refused():
    assert loads(f"job: J\ntasks: {{{'a' * 200}: x}}")
    assert refusal(f"job: {'a' * 201}\ntasks: {{A: x}}") == (
        f"job.yaml:1: job: the name '{'a' * 59}…' has 201 characters, at most 200 are allowed."
    )


NOT_YAML = [
    ("a: [1\nb: 2", 2, "is not YAML: "),
    ("a: b: c", 1, "is not YAML: "),
    ("job: J\n\ttasks: {}", 2, "is not YAML: "),
    ("a: 'b", 1, "is not YAML: "),
    ("job: !!python/object:os.system [ls]", 1, "the tag '!!python/object:os.system' is not allowed"),
    ("job: !!str J", 1, "the tag '!!str' is not allowed"),
    ("job: J\ntasks:\n  ? [a]\n  : x", 3, "a key must be text"),
    ("%YAML 1.1\n---\njob: J", 1, "a directive, a line with % at its start, is not allowed"),
    ("# JOB 1\n\n%TAG !a! x\n---\njob: J", 3, "a directive, a line with % at its start, is not allowed"),
    ("job: J\n...\n\n%TAG !a! x\n---\njob: J", 4, "a directive, a line with % at its start, is not allowed"),
    ("job: J\n--- {job: K}", 2, "a second document begins here; make it a file of its own"),
    ("job: *name", 1, "no anchor named 'name' stands before this alias"),
    ("job: &a [*a]", 1, "no anchor named 'a' stands before this alias"),
    ("job: J\nx: \a", 2, "holds U+0007; write it as an escape"),
    ("job: J\nx: '\u2028'", 2, "holds U+2028; write it as an escape"),
    ("a:\n  " + "[" * 1000, 2, "is nested deeper than 100 levels"),
    ("a:\n" + "- " * 1000, 2, "is nested deeper than 100 levels"),
    ("a: " + "1" * 5000, 1, "holds a number of more than 4,000 digits"),
]


@pytest.mark.parametrize(("text", "line", "said"), NOT_YAML)
def test_a_text_that_is_not_good_yaml_is_refused_with_its_line(text, line, said):
    assert refusal(text).startswith(f"job.yaml:{line}: {said}")


def test_a_broken_escape_is_refused():
    assert refusal('job: "\\U00110000"').startswith("job.yaml")


NOT_JSON = [
    ('{"job": "J",\n "tasks" {}}', ":2: is not JSON: expecting ':' delimiter"),
    ('{"job": "J",\n "job": "K"}', ":2: the key 'job' is there twice"),
    (
        '{"job": "J",\n "tasks": {"A": {"run": "x",\n "kwargs": {"a": 1,\n "b": 2,\n "a": 3}}}}',
        ":5: the key 'a' is there twice",
    ),
    (
        '{"job": "J", "tasks": {\n"A": {"run": "x", "args": [\nNaN]}}}',
        ":3: tasks.A.args.0: must be a finite number, not nan",
    ),
    (
        '{"job": "J", "tasks": {"A": {"run": "x", "args": [-Infinity]}}}',
        ":1: tasks.A.args.0: must be a finite number, not -inf",
    ),
    (
        '{"job": "J", "tasks": {"A": {"run": "x", "args": [1e999]}}}',
        ":1: tasks.A.args.0: must be a finite number, not inf",
    ),
    (
        '{"job": "J", "tasks": {"A": {"run": "x", "args": ["\\ud800"]}}}',
        ":1: tasks.A.args.0: holds half a surrogate pair, which is no character",
    ),
    (
        '{"job": "J", "tasks": {"\\udc80": "x"}}',
        ":1: tasks.'\\udc80': the name '\\udc80' holds U+DC80, which does not show; leave it out",
    ),
    ("[" * 100_000, ": is nested deeper than 100 levels"),
    (
        '{"job": "J", "tasks": {"A": {"run": "x", "args": ' + "[" * 70 + "]" * 70 + "}}}",
        ":1: tasks.A.args: is nested deeper than 64 levels",
    ),
    ('{"job": ' + "1" * 5000 + "}", ": holds a number of more than 4,000 digits"),
    (
        '{\n"job": "J",\n"tasks": {\n"A": "x",\n"B": {\n"run": "x",\n"after": ["A",\n{"C": "error"}]}}}',
        ":8: tasks.B.after: no task named 'C'",
    ),
]


@pytest.mark.parametrize(("text", "said"), NOT_JSON)
def test_a_text_that_is_not_good_json_is_refused_with_its_line(text, said):
    assert refusal(text, format="json") == f"job.yaml{said}."


NOT_TOML = [
    ('job = "J"\njob = "K"\n', ":2: is not TOML: "),
    ("\njob = ", ":2: is not TOML: "),
    ('job = "J"\n[tasks.A]\nrun = 08:00:00', ":3: tasks.A.run: must be text, not a time"),
    ('job = "J"\n[tasks.A]\nrun = "x"\nargs = [2026-01-01]', ":4: tasks.A.args.0: must be JSON, not a Python date"),
    (
        'job = "J"\n[tasks]\n"A" = { run = "x" }\n"B" = { run = "x", after = "C" }',
        ":4: tasks.B.after: no task named 'C'",
    ),
    (
        'job = "J"\n[tasks."A"]\nrun = "x"\n[tasks."B"]\nrun = "x"\nretry = 1',
        ":6: tasks.B: unknown key 'retry' (closest: 'retries')",
    ),
    (
        "[[servers.A.windows]]\n[[servers.A.windows]]\nthreads = -1",
        ":3: servers.A.windows.1.threads: must be at least 0, not -1",
    ),
    ("a = " + "[" * 100_000, ": is nested deeper than 100 levels"),
    ("x = 1\n" + "a." * 1000 + "b = 1", ":2: a key of more than 40 parts is not allowed"),
    ("a = 2026-13-01", ":1: is not TOML: "),
]


@pytest.mark.parametrize(("text", "said"), NOT_TOML)
def test_a_text_that_is_not_good_toml_is_refused_with_its_line(text, said):
    assert any(line.startswith(f"job.yaml{said}") for line in refusal(text, format="toml").split("\n"))


@pytest.mark.parametrize("format", ["yaml", "json", "toml"])
def test_bytes_that_are_no_text_are_refused(format):
    assert refusal(b"job: J\n\xff\xfe", format=format) == "job.yaml:2: is not UTF-8 text (byte 0xff)."
    assert refusal("job: J\n\0", format=format) == "job.yaml:2: holds a NUL character, so it is no text file."
    assert refusal("job: \ud800", format=format) == "job.yaml:1: is not UTF-8 text (byte 0xed)."
    assert refusal("job: J".encode("utf-16"), format=format) == "job.yaml:1: is not UTF-8 text (byte 0xff)."


def test_an_unknown_format_is_refused():
    assert refusal("", format="xml") == "no format 'xml'; use yaml, toml, json."


def test_all_faults_are_told_in_the_order_of_their_lines():
    text = """\
job: J
every: 1 h
tasks:
  A:
    run: x
    retries: 9
    retry: 1
  B:
    run: x
    after:
      - A
      - Z
  C: {run: }
"""
    assert refusal(text).split("\n") == [
        "job.yaml:2: 'every' does not work yet in this version.",
        "job.yaml:6: tasks.A.retries: must be at most 5, not 9.",
        "job.yaml:7: tasks.A: unknown key 'retry' (closest: 'retries').",
        "job.yaml:12: tasks.B.after: no task named 'Z'.",
        "job.yaml:13: tasks.C.run: must be text, not nothing.",
    ]


NESTED = """\
job: J
tasks:
  A: x
  T:
    run: x
    after:
      all:
        - A
        - any:
            - A
            - {said}
"""


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("{A: fail}", f"tasks.T.after.all.1.any.1.A: no outcome 'fail' (closest: 'failed'); {WORDS}."),
        ("B", "tasks.T.after: no task named 'B'."),
        ("T", "tasks.T.after: the task waits for itself; take that condition out."),
    ],
)
def test_a_fault_within_joins_is_told_with_its_line_as_rule_50_says(said, sentence):
    assert refusal(NESTED.replace("{said}", said)) == f"job.yaml:11: {sentence}"


@pytest.mark.parametrize("levels", [5, 6])
def test_joins_stand_within_each_other_five_levels_deep_as_rule_50_says(levels):
    after = "A"
    for level in range(levels):
        after = f"{{{'any' if level % 2 else 'all'}: [A, {after}]}}" if level else "{all: [A]}"
    text = f"job: J\ntasks:\n  A: x\n  T: {{run: x, after: {after}}}\n"
    if levels <= 5:
        assert loads(text)
    else:
        assert "'all' and 'any' stand within each other, 5 levels deep at most" in refusal(text)


def test_no_more_than_ten_faults_are_told():
    lines = refusal("job: J\ntasks:\n" + "".join(f"  T{n}: 7\n" for n in range(50))).split("\n")
    assert lines[9] == "job.yaml:12: tasks.T9: must be a mapping, not 7."
    assert lines[10:] == ["job.yaml: these are the first 10 faults, there may be more."]


def test_the_value_of_an_argument_is_never_told():
    for task in ["{run: x, kwargs: hunter2}", "{run: x, kwargs: {password: [hunter2, .nan]}}"]:
        assert "hunter2" not in refusal(TASKS + task)


def test_limits_are_settings():
    text = "job: J\ntasks: {AA: x, BB: {run: x, after: AA, args: [hello]}, CC: {run: x, after: [AA, BB]}}"
    said = {
        "file_bytes": "job.yaml: is larger than 1 bytes.",
        "tasks": "job.yaml:2: more than 1 tasks are not allowed.",
        "conditions": "job.yaml:2: tasks: has 3 conditions, at most 1 are allowed.",
        "argument_bytes": "job.yaml:2: tasks.BB.args: takes more than 1 bytes as JSON.",
    }
    for name, sentence in said.items():
        assert refusal(text, sizes=Sizes(**{name: 1})) == sentence
    assert "the name 'AA' has 2 characters, at most 1 are allowed." in refusal(text, sizes=Sizes(name_chars=1))
    assert refusal(text, sizes=Sizes(argument_bytes=10)) == (
        "job.yaml:2: tasks.BB: args and kwargs take 15 bytes as JSON, at most 10 are allowed."
    )


def test_the_file_and_its_path_are_named(tmp_path: Path):
    from batchq.spec import load

    path = tmp_path / "bad\n.json"
    path.write_text('{"job": 7}')
    with pytest.raises(InvalidInput) as refused:
        load(path)
    assert "\n" not in str(refused.value)
