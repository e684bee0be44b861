"""The app is found as Celery finds it, may be joined twice, and is told where nobody named it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from batchq import BatchQ
from support.site import Folder

APP = "from celery import Celery\n{name} = Celery('shop')\n@{name}.task(name='shop.add')\ndef add(): pass\n"
JOB = "job: J\ntasks: {A: {run: shop.add}}\n"
CELERY = ("-m", "celery")
# What is in the folder, and what may stand behind -A.
PROJECTS = {
    "a package": ({"proj/__init__.py": "", "proj/celery.py": APP.format(name="app")}, ["proj", "proj.celery"]),
    "its attribute": (
        {"proj/__init__.py": "", "proj/celery.py": APP.format(name="app")},
        ["proj.celery.app", "proj.celery:app"],
    ),
    "another name": (
        {"proj/__init__.py": "", "proj/tasks.py": APP.format(name="night_shift")},
        ["proj.tasks", "proj.tasks.night_shift", "proj.tasks:night_shift"],
    ),
    "a package that imports it": (
        {"proj/__init__.py": "from .celery import app as celery_app", "proj/celery.py": APP.format(name="app")},
        ["proj", "proj:celery_app", "proj.celery_app"],
    ),
    "a module": ({"shop.py": APP.format(name="app")}, ["shop", "shop.app", "shop:app"]),
    "beside an app of another kind": (
        {"shop.py": "app = object()\n" + APP.format(name="celery_app")},
        ["shop", "shop:celery_app"],
    ),
    "joined and nothing else": (
        {"shop.py": "from batchq import BatchQ\n" + APP.format(name="x") + "batch = BatchQ(x)\ndel x\n"},
        ["shop", "shop:batch", "shop.batch"],
    ),
}
# The first way of each project is part of every run of the tests.
FOUND = [
    pytest.param(files, path, id=f"{what}: {path}", marks=() if path == paths[0] else pytest.mark.slow)
    for what, (files, paths) in PROJECTS.items()
    for path in paths
]
PACKAGE = {"proj/__init__.py": "", "proj/celery.py": APP.format(name="app")}
WRONG = {
    "nowhere": "No module named 'nowhere' for the app 'nowhere'; looked in ",
    "nowhere.celery:app": "No module named 'nowhere' for the app ",
    "proj.nowhere:app": "No module named 'proj.nowhere' for the app ",
    "proj.celery:nothing": "'proj.celery:nothing' names no Celery app. It has 'proj.celery:app'.",
    "proj.celery.nothing": "'proj.celery.nothing' names no Celery app. It has 'proj.celery:app'.",
    "proj.celery:add": "'proj.celery:add' names no Celery app. It has 'proj.celery:app'.",
    "empty": "'empty' names no Celery app.",
    "needs": "The app 'needs' cannot be imported: No module named 'nosuch'.",
    "deep": "The app 'deep' cannot be imported: No module named 'nosuch'.",
    "broken": "The app 'broken' cannot be imported: ZeroDivisionError: division by zero.",
    "lacks": "The app 'lacks' cannot be imported: AttributeError: module 'json' has no attribute 'nothing'.",
    ":app": "The app ':app' cannot be imported: ",
    "..": "The app '..' cannot be imported: ",
}
# One of each kind is part of every run of the tests.
ALWAYS = ("nowhere", "proj.celery:nothing", "empty", "needs", "broken", "..")
WRONG_FILES = {
    **PACKAGE,
    "empty.py": "",
    "needs.py": "import nosuch\n",
    "deep/__init__.py": "",
    "deep/celery.py": "import nosuch\n",
    "broken.py": "1 / 0\n",
    "lacks.py": "import json\njson.nothing\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with Folder(tmp_path) as folder:
        yield folder


def write(folder: Folder, files: dict[str, str]) -> None:
    for name, text in {"job.yaml": JOB, **files}.items():
        path = folder.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def celery(folder: Folder, *words: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Celery's own command line to its end."""
    ended = folder.python(*CELERY, *words, code=code, **env)
    assert "Traceback" not in ended.stderr
    return ended


@pytest.mark.parametrize(("files", "path"), FOUND)
def test_the_app_is_found_as_celery_finds_it(folder: Folder, files: dict[str, str], path: str) -> None:
    write(folder, files)
    ended = folder.cli("-A", path, "validate", "job.yaml")
    assert (ended.stdout, ended.stderr) == ("job.yaml: valid, 1 job, 1 task\n", "")


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=() if path in ALWAYS else pytest.mark.slow) for path in WRONG]
)
def test_where_there_is_none_one_sentence_says_so(folder: Folder, path: str) -> None:
    write(folder, WRONG_FILES)
    ended = folder.cli("-A", path, "status", code=2)
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"Error: {WRONG[path]}")


# --- through Celery's own command line ----------------------------------------------------------------------


def test_celerys_own_command_has_ours(folder: Folder) -> None:
    write(folder, PACKAGE)
    assert "Runs     none open" in celery(folder, "-A", "proj", "batchq", "status").stdout
    assert json.loads(celery(folder, "-A", "proj", "batchq", "runs", "list", "-o", "json").stdout) == []
    assert celery(folder, "-A", "proj", "batchq", "validate", "job.yaml").stderr == ""
    assert "valid, 1 job" in celery(folder, "batchq", "validate", "job.yaml", BATCHQ_APP="proj").stdout
    assert "No run 7" in celery(folder, "-A", "proj", "batchq", "runs", "show", "7", code=3).stderr
    assert "broken" not in celery(folder, "--help").stdout


def test_a_run_begun_there_starts_its_processes_with_the_same_app(folder: Folder) -> None:
    write(folder, PACKAGE)
    run = json.loads(celery(folder, "--app=proj", "batchq", "run", "job.yaml", "-o", "json").stdout)
    assert run["status"] == "success"
    assert folder.alive() == []
    for path in (folder.folder / ".batchq" / "logs").iterdir():
        assert "UserWarning" not in path.read_text()


# --- joined twice -------------------------------------------------------------------------------------------

TWICE = {
    "proj/__init__.py": "",
    "proj/celery.py": APP.format(name="app") + "from batchq import BatchQ\nbatch = BatchQ(app, tick_seconds=7)\n",
    "proj/jobs.py": "from batchq import BatchQ\nfrom proj.celery import app\nbatch = BatchQ(app, database_url='sqlite:///x.db')\n",
}


@pytest.mark.parametrize("path", ["proj.celery:batch", "proj.jobs:batch", "proj.jobs:app"])
def test_to_join_twice_does_no_harm(folder: Folder, path: str) -> None:
    write(folder, TWICE)
    folder.cli("-A", path, "db", "upgrade")
    assert "Runs     none open" in folder.cli("-A", path, "status").stdout
    assert (folder.folder / "x.db").exists() == ("jobs" in path)
    said = celery(folder, "-A", path.replace(":batch", ":app"), "worker", "--help")
    assert said.stdout.count("--batch-server") == 1
    assert "more than once" not in said.stderr


def test_the_second_one_is_the_first_with_its_settings_added(tmp_path: Path) -> None:
    app = Celery("shop", set_as_current=False)
    first = BatchQ(app, home=tmp_path, tick_seconds=7)
    assert first.settings.database == f"sqlite:///{tmp_path / 'batchq.db'}"
    old = first.database
    second = BatchQ(app, database_url=f"sqlite:///{tmp_path / 'other.db'}")

    assert first is second is BatchQ(app) is app.batchq
    assert (second.settings.tick_seconds, second.settings.home) == (7, tmp_path)
    assert second.database.url.database == str(tmp_path / "other.db")
    assert second.database is not old
    assert len(app.user_options["worker"]) == 1
    assert BatchQ(Celery("other", set_as_current=False)) is not first


# --- what is looked at --------------------------------------------------------------------------------------


def test_without_a_name_a_command_says_which_app_and_database_it_looks_at(folder: Folder) -> None:
    write(folder, PACKAGE)
    (line,) = folder.cli("status").stderr.splitlines()
    database = f"sqlite:///{folder.folder / '.batchq' / 'batchq.db'}"
    assert line == (
        f"No app is named: this is the demo app, with the database {database}. -A MODULE:APP or BATCHQ_APP names one."
    )
    assert folder.cli("status", "-o", "json").stderr == ""
    assert folder.cli("-A", "proj", "status").stderr == ""
    assert folder.cli("status", BATCHQ_APP="proj").stderr == ""
    assert celery(folder, "-A", "proj", "batchq", "status").stderr == ""
    (line,) = celery(folder, "batchq", "status").stderr.splitlines()
    assert line.startswith("No app is named: this is Celery's app 'default', with the database sqlite:///")


def test_it_says_so_without_the_password(folder: Folder) -> None:
    url = "postgresql+psycopg://ops:hunter2@127.0.0.1:1/x"
    said = folder.cli("status", code=4, BATCHQ_DATABASE_URL=url).stderr.splitlines()
    assert said[0].startswith("No app is named: this is the demo app, with the database postgresql+psycopg://ops:***@")
    assert "hunter2" not in "".join(said)
