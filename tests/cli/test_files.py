"""`batchq submit`, `validate`, `apply`, `job` and `db`."""

from __future__ import annotations

import fcntl
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery

from batchq import views
from stage import JOB_1

SET_UP = """
groups: {BG1: {priority: high}}
servers:
  AOS1: {threads: 8}
  AOS2:
    groups: [BG1, default]
    windows:
      - {start: "08:00", end: "18:00", threads: 2, timezone: Europe/Oslo}
job: NIGHT
tasks: {A: {run: demo.work}, B: {run: demo.work, group: BG2, after: A}}
"""
TWO = "{jobs: {J: {tasks: {A: {run: demo.work}}}, K: {tasks: {A: {run: demo.work}}}}}"


def project():
    """What Celery's own command hands to ours: a context with the app of `celery -A`."""
    app = Celery("proj")

    @app.task(name="proj.add", shared=False)
    def add():
        pass

    return SimpleNamespace(app=app)


@pytest.fixture
def files(tmp_path):
    def write(**texts: str) -> list[Path]:
        paths = [tmp_path / f"{name}.yaml" for name in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text)
        return paths

    return write


# --- submit -------------------------------------------------------------------------------------------------


def test_submit_stores_a_run_and_says_its_number(batchq, batchq_json, stage, files):
    (job,) = files(job1=JOB_1)
    assert batchq("submit", job).stdout == "Run 1 of JOB 1 is submitted.\n"
    assert batchq_json("submit", job) == {"run": 2, "job": "JOB 1"}
    assert stage.states(2)["TASK 1"] == "ready"


def test_of_several_jobs_one_is_chosen(batchq, stage, files):
    (two,) = files(two=TWO)
    assert batchq("submit", two, "--job", "K").stdout == "Run 1 of K is submitted.\n"
    assert "holds 2 jobs: J, K. Choose one with --job." in batchq("submit", two, code=2).stderr
    assert "No job 'L'" in batchq("submit", two, "--job", "L", code=3).stderr


def test_submit_refuses_an_operation_that_the_app_does_not_know(batchq, batchq_json, files):
    (job,) = files(bad="{job: J, tasks: {A: {run: demo.wrok}}}")
    assert "no task named 'demo.wrok'" in batchq("submit", job, code=2).stderr
    assert batchq_json("runs", "list") == []


def test_submit_without_a_broker_stores_nothing(batchq, batchq_json, files, monkeypatch):
    (job,) = files(job1=JOB_1)
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://:secret@127.0.0.1:1/0")
    error = batchq("submit", job, code=4).stderr
    assert error.startswith("Error: The broker redis://:**@127.0.0.1:1/0 does not answer")
    assert batchq_json("runs", "list") == []


def test_submit_waits_for_the_verdict_or_for_so_long(batchq, batchq_json, stage, files):
    (job,) = files(job1=JOB_1)
    assert "still Executing" in batchq("submit", job, "--wait", "--timeout", "0", code=124).stdout
    assert batchq_json("submit", job, "--wait", "--timeout", "0", code=124)["run"] == 2
    assert "--timeout goes with --wait" in batchq("submit", job, "--timeout", "1", code=2).stderr


def test_a_file_that_is_not_there_is_invalid_input(batchq):
    assert "nothing.yaml: cannot be read" in batchq("submit", "nothing.yaml", code=2).stderr


# --- validate -----------------------------------------------------------------------------------------------


def test_validate_says_what_a_valid_file_holds(batchq, batchq_json, files):
    good, two = files(good=SET_UP, two=TWO)
    assert batchq("validate", good, two).stdout.splitlines() == [
        f"{good}: valid, 1 job, 2 tasks, 1 group, 2 servers",
        f"{two}: valid, 2 jobs, 2 tasks",
    ]
    assert batchq_json("validate", two) == [
        {
            "file": str(two),
            "valid": True,
            "errors": [],
            "notes": [],
            "jobs": 2,
            "groups": 0,
            "servers": 0,
            "limits": 0,
            "tasks": 2,
        }
    ]


def test_validate_names_file_and_line_of_each_fault_and_checks_all_files(batchq, batchq_json, files):
    good, bad = files(good=JOB_1, bad=JOB_1.replace("after: TASK 2}", "after: TASK 22}"))
    result = batchq("validate", bad, good, code=2)
    assert f"{good}: valid" in result.stdout
    assert result.stderr.startswith(f"Error: {bad}:6: ")
    assert "TASK 22" in result.stderr
    assert [view["valid"] for view in batchq_json("validate", bad, good, code=2)] == [False, True]


def test_validate_needs_neither_app_nor_database(batchq, files, monkeypatch):
    (job,) = files(job="{job: J, tasks: {A: {run: anything.at.all}}}")
    monkeypatch.setenv("BATCHQ_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    batchq("validate", job)


def test_validate_with_an_app_checks_the_operations_too(batchq, files):
    (job,) = files(job="{job: J, tasks: {A: {run: proj.ad}}}")
    assert "no task named 'proj.ad'" in batchq("validate", job, code=2, obj=project()).stderr


# --- apply --------------------------------------------------------------------------------------------------


def test_apply_prints_every_difference_once_and_then_none(batchq, batchq_json, stage, files):
    (file,) = files(setup=SET_UP)
    wanted = [
        "server AOS1: new",
        "server AOS1: threads 1 → 8",
        "server AOS2: new",
        "server AOS2: groups none → BG1, default",
        "server AOS2: window 08:00-18:00=2 Europe/Oslo added",
        "group BG2: new",
        "group BG1: new, priority high",
        "job NIGHT: new, tasks: 2",
    ]
    assert batchq("apply", file, "--dry-run").stdout.splitlines() == wanted
    assert batchq_json("server", "list") == []
    assert batchq_json("apply", file) == {"dry_run": False, "changes": wanted}
    assert batchq("apply", file).stdout == "Nothing to change.\n"
    first, second = batchq_json("server", "list")
    assert (first["threads"], second["groups"], len(second["windows"])) == (8, ["BG1", "default"], 1)
    assert {group["group"]: group["priority"] for group in batchq_json("group", "list")} == {
        "BG1": "high",
        "BG2": "normal",
        "default": "normal",
    }
    assert batchq_json("runs", "list") == []


def test_apply_says_how_a_job_and_a_server_changed(batchq, files):
    (file,) = files(setup=SET_UP)
    batchq("apply", file)
    file.write_text(
        SET_UP.replace("threads: 8", "threads: 4").replace(
            "A: {run: demo.work}", "A: {run: demo.echo}, C: {run: demo.work}"
        )
    )
    assert batchq("apply", file).stdout.splitlines() == [
        "server AOS1: threads 8 → 4",
        "job NIGHT: C added; A changed",
    ]


def test_apply_takes_back_the_tickets_that_no_longer_hold(batchq, stage, files):
    stage.server("AOS1")
    stage.submit()
    (file,) = files(bind="{servers: {AOS1: {groups: [BG1]}}}")
    assert stage.states()["TASK 1"] == "queued"
    batchq("apply", file)
    assert stage.states()["TASK 1"] == "ready"


def test_apply_refuses_all_files_if_one_is_wrong_or_two_say_the_same(batchq, batchq_json, files):
    good, bad = files(good=SET_UP, bad="servers: {AOS3: {threads: -1}}")
    assert "threads" in batchq("apply", good, bad, code=2).stderr
    again = good.with_name("again.yaml")
    again.write_text("{servers: {AOS1: {threads: 1}}}")
    assert "again.yaml: server 'AOS1' is in an earlier file too" in batchq("apply", good, again, code=2).stderr
    assert batchq_json("server", "list") == []


# --- apply --prune ------------------------------------------------------------------------------------------


def names(batchq_json):
    return [[view[key] for view in batchq_json(what, "list")] for what, key in (("server", "name"), ("group", "group"))]


def test_prune_removes_what_the_files_do_not_name(batchq, batchq_json, stage, files):
    old, new = files(
        old="{groups: {BG1: {}, BG2: {}, BG3: {}}, servers: {AOS1: {groups: [BG2]}, AOS2: {groups: [BG3]}}}",
        new="{groups: {BG1: {}}, servers: {AOS1: {threads: 2}}, job: J, tasks: {A: {run: demo.work, group: BG3}}}",
    )
    batchq("apply", old)
    wanted = [
        "server AOS2: removed",
        "server AOS1: threads 1 → 2",
        "server AOS1: groups BG2 → none",
        "group BG2: removed",
        "job J: new, tasks: 1",
    ]
    before = names(batchq_json)
    assert batchq("apply", new, "--prune", "--dry-run").stdout.splitlines() == wanted
    assert names(batchq_json) == before
    assert batchq("apply", new, "--prune").stdout.splitlines() == wanted
    assert names(batchq_json) == [["AOS1"], ["BG1", "BG3", "default"]]
    assert batchq("apply", new, "--prune").stdout == "Nothing to change.\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("{job: J, tasks: {A: {run: demo.work, group: BG1}}}", [["AOS1", "AOS2"], ["BG1", "BG2", "default"]]),
        ("{servers: {AOS1: {groups: [BG1]}}}", [["AOS1"], ["BG1", "BG2", "default"]]),
        ("{groups: {BG1: {}}}", [["AOS1", "AOS2"], ["BG1", "default"]]),
    ],
)
def test_prune_removes_only_of_the_kinds_of_which_the_files_name_one(batchq, batchq_json, files, text, left):
    old, new = files(old="{groups: {BG1: {}, BG2: {}}, servers: {AOS1: {groups: [BG1]}, AOS2: {}}}", new=text)
    batchq("apply", old)
    batchq("apply", new, "--prune")
    assert names(batchq_json) == left


def test_prune_refuses_all_if_a_server_runs_or_a_group_is_in_use_and_names_every_one(batchq, batchq_json, stage, files):
    stage.server("AOS1")
    stage.server("AOS2")
    stage.submit("{job: J, group: BG1, tasks: {A: {run: demo.work}}}")
    (new,) = files(new="{groups: {BG2: {}}, servers: {AOS9: {threads: 2}}}")
    for options in (["--prune"], ["--prune", "--dry-run"]):
        error = batchq("apply", new, *options, code=5).stderr.splitlines()
        assert [line.split(", as pid")[0] for line in error] == [
            "Error: Server AOS1 runs",
            "Server AOS2 runs",
            "Group BG1 is in use and cannot be deleted; tasks of it that have not ended: 1.",
        ]
    assert names(batchq_json) == [["AOS1", "AOS2"], ["BG1", "default"]]


def test_differences_of_windows_are_told_one_by_one_with_zones_and_dates(batchq, files):
    window = '{{start: "08:00", end: "18:00", threads: {}, timezone: {}}}'
    off = '{date: "2026-12-24", threads: 0, timezone: Europe/Oslo}'
    one, two = window.format(2, "Europe/Oslo"), window.format(2, "Asia/Tokyo")
    before, after = files(
        before=f"{{servers: {{AOS1: {{windows: [{one}, {two}]}}}}}}",
        after=f"{{servers: {{AOS1: {{windows: [{off}, {two}]}}}}}}",
    )
    batchq("apply", before)
    assert batchq("apply", after).stdout.splitlines() == [
        "server AOS1: window 08:00-18:00=2 Europe/Oslo removed",
        "server AOS1: window 00:00-00:00=0 Europe/Oslo [2026-12-24] added",
    ]


# --- jobs ---------------------------------------------------------------------------------------------------


def test_jobs_are_listed_with_the_newest_run(batchq, batchq_json, stage, files):
    assert "No jobs." in batchq("job", "list").stdout
    stage.submit()
    row = batchq("job", "list").stdout.splitlines()[1]
    assert re.split(r"\s{2,}", row)[:4] == ["JOB 1", "Executing", "1", "1"]
    with stage.database.read() as tx:
        assert batchq_json("job", "list") == views.jobs(tx)


def test_a_job_is_shown_with_tasks_and_runs(batchq, batchq_json, stage):
    stage.submit()
    shown = batchq("job", "show", "JOB 1").stdout
    assert shown.startswith("JOB 1: Executing, 7 tasks, 1 run\n")
    assert re.search(r"TASK 2\s+demo.work\s+default\s+–\s+0\s+TASK 1 finished", shown)
    assert batchq_json("job", "show", "JOB 1")["definition"]["name"] == "JOB 1"
    assert "(closest: 'JOB 1')" in batchq("job", "show", "JOB 11", code=3).stderr


def test_a_job_is_drawn_by_name_and_from_a_file_alike(batchq, stage, files):
    stage.submit()
    (file,) = files(job1=JOB_1)
    for form in ("text", "mermaid", "dot"):
        assert batchq("job", "graph", "JOB 1", "-o", form).stdout == batchq("job", "graph", file, "-o", form).stdout
    assert batchq("job", "graph", "JOB 2", code=3).stderr.startswith("Error: No job 'JOB 2'")


# --- the database -------------------------------------------------------------------------------------------


def test_a_named_database_without_tables_asks_for_an_upgrade(batchq, tmp_path, monkeypatch):
    monkeypatch.setenv("BATCHQ_DATABASE_URL", f"sqlite:///{tmp_path}/named.db")
    error = batchq("runs", "list", code=4).stderr
    assert "holds no batchq tables yet. Run `batchq db upgrade` first." in error
    assert "is now at schema" in batchq("db", "upgrade").stdout
    assert "is up to date" in batchq("db", "upgrade").stdout
    batchq("runs", "list")


def test_the_embedded_database_is_made_without_a_word(batchq, tmp_path, monkeypatch):
    monkeypatch.setenv("BATCHQ_HOME", str(tmp_path / "new"))
    assert batchq("runs", "list").stdout.startswith("No runs.")


def test_an_unreachable_database_is_exit_code_4(batchq, monkeypatch):
    pytest.importorskip("psycopg")
    monkeypatch.setenv("BATCHQ_DATABASE_URL", "postgresql+psycopg://me:secret@127.0.0.1:1/none")
    error = batchq("status", code=4).stderr
    assert "does not answer" in error
    assert "secret" not in error


def test_a_wrong_setting_is_one_line(batchq, monkeypatch):
    monkeypatch.setenv("BATCHQ_TICK_SECONDS", "soon")
    error = batchq("status", code=2).stderr
    assert error.startswith("Error: Settings: BATCHQ_TICK_SECONDS: ")


# --- the app ------------------------------------------------------------------------------------------------


def test_the_app_is_that_of_celerys_own_command(batchq, stage, files):
    (job,) = files(job="{job: J, tasks: {A: {run: proj.add}}}")
    assert "no task named 'proj.add'" in batchq("submit", job, code=2).stderr
    batchq("submit", job, obj=project())
    assert stage.view()["tasks"][0]["operation"] == "proj.add"


def test_an_app_that_is_not_there_is_invalid_input(batchq):
    assert "No module named 'nowhere'" in batchq("-A", "nowhere:app", "status", code=2).stderr


def test_a_command_uses_the_broker_of_the_engine_that_runs_in_its_folder(batchq, tmp_path, files, monkeypatch):
    (job,) = files(job1=JOB_1)
    monkeypatch.setenv("CELERY_BROKER_URL", "")
    with (tmp_path / "lock").open("w") as lock:
        json.dump({"pid": 1, "broker": "redis://127.0.0.1:1/7"}, lock)
        lock.flush()
        assert "No broker is named, and no engine runs" in batchq("submit", job, code=4).stderr
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "The broker redis://127.0.0.1:1/7 does not answer" in batchq("submit", job, code=4).stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("FILE_BYTES", "is larger than 1 bytes."),
        ("MAX_TASKS", "more than 1 tasks are not allowed."),
        ("MAX_CONDITIONS", "tasks: has 2 conditions, at most 1 are allowed."),
        ("NAME_CHARS", "the name 'JOB' has 3 characters, at most 1 are allowed."),
        ("ARGUMENT_BYTES", "takes more than 1 bytes as JSON."),
    ],
)
def test_what_a_file_may_hold_at_most_is_set_and_what_is_stored_stays(batchq, tmp_path, monkeypatch, setting, said):
    form = "{run: demo.work, after: [AB, BC], args: [1, two]}"
    (tmp_path / "job.yaml").write_text(f"job: JOB\ntasks: {{AB: demo.work, BC: demo.work, CD: {form}}}\n")
    batchq("submit", "job.yaml")
    monkeypatch.setenv(f"BATCHQ_{setting}", "1")
    assert said in batchq("validate", "job.yaml", code=2).stderr
    assert "CD" in batchq("job", "show", "JOB").stdout


def test_a_secret_argument_is_shown_by_no_command(batchq, batchq_json, tmp_path):
    form = "{run: demo.work, kwargs: {message: hunter2, seconds: 1}, secret: [message]}"
    (tmp_path / "job.yaml").write_text(f"job: JOB\ntasks: {{A: {form}}}\n")
    batchq("submit", "job.yaml")

    assert "message=" in batchq("task", "show", "last", "A").stdout
    assert batchq_json("task", "show", "last", "A")["kwargs"] == {"seconds": 1, "message": "***"}
    assert batchq_json("job", "show", "JOB")["definition"]["tasks"][0]["kwargs"] == {"seconds": 1, "message": "***"}
    shown = [
        ("job", "show", "JOB"),
        ("task", "show", "last", "A"),
        ("plan", "--queue", "--tasks"),
        ("runs", "show", "1"),
    ]
    for words in shown:
        assert "hunter2" not in batchq(*words).stdout + batchq(*words, "-o", "json").stdout
    changed = (tmp_path / "job.yaml").read_text().replace("hunter2", "hunter3")
    (tmp_path / "job.yaml").write_text(changed)
    assert batchq("apply", "job.yaml").stdout == "job JOB: A changed\n"
