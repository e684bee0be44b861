"""The plugin of pytest: its fixtures are there in every project, and a start of pytest stays as fast as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support import book

NAMES = "batchq_play", "batchq_stage"
# Modules that nobody should wait for who runs tests of something else.
HEAVY = ("sqlalchemy", "pydantic", "celery", "kombu", "alembic", "batchq.engine", "batchq.spec")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project beside an installed batchq: its metadata is what pyproject.toml declares."""
    declared = tomllib.loads((book.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    ((name, module),) = declared["pytest11"].items()
    info = tmp_path / "site" / "scratch-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scratch\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[pytest11]\n{name} = {module}\n", encoding="utf-8")
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def run(project: Path, *words: str, program: str | None = None) -> str:
    """What pytest, or a program of the project that runs it, prints there; all must be well."""
    path = os.pathsep.join([str(project.parent / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    argv = [sys.executable, "-W", "error", *([program] if program else ["-m", "pytest", "-q"]), *words]
    done = subprocess.run(argv, cwd=project, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_of_the_documentation_runs(project: Path):
    for block in book.files():
        if block.file in ("test_night.py", "night.yaml", "servers.yaml"):
            (project / block.file).write_text(block.text, encoding="utf-8")
    tests = book.file("test_night.py").count("def test_")
    assert f"{tests} passed" in run(project)
    assert tests >= 3


def test_the_fixtures_are_found_and_explained(project: Path):
    said = run(project, "--fixtures")
    for name in NAMES:
        assert f"\n{name}" in said


def test_the_plugin_brings_two_fixtures_of_its_own_name_and_nothing_else():
    from batchq.testing import plugin

    public = {name for name, value in vars(plugin).items() if getattr(value, "__module__", "") == plugin.__name__}
    assert public == set(NAMES)
    assert not [name for name in vars(plugin) if name.startswith("pytest_")]


def test_a_run_that_asks_for_no_rehearsal_imports_nothing_heavy(project: Path):
    (project / "test_other.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    assert 'batchq.testing.plugin' in sys.modules\n"
        f"    assert [name for name in {HEAVY} if name in sys.modules] == []\n",
        encoding="utf-8",
    )
    run(project)


def test_a_program_that_has_imported_batchq_may_run_pytest(project: Path):
    # By the record of what was installed pytest knows which modules it would rewrite.
    record = project.parent / "site" / "scratch-1.dist-info" / "RECORD"
    record.write_text("batchq/__init__.py,,\nscratch-1.dist-info/entry_points.txt,,\n", encoding="utf-8")
    (project / "test_it.py").write_text("def test_it(batchq_play):\n    pass\n", encoding="utf-8")
    (project / "program.py").write_text(
        "import sys\nimport batchq, pytest\nsys.exit(pytest.main(['-q', '-W', 'error']))\n", encoding="utf-8"
    )
    assert "1 passed" in run(project, program="program.py")


def test_a_stage_is_closed_after_its_test(project: Path):
    (project / "test_stages.py").write_text(
        "STAGES = []\n"
        "def test_one(batchq_stage):\n"
        "    STAGES.extend([batchq_stage(1), batchq_stage(on=2)])\n"
        "    assert STAGES[1].submit('job: J\\ntasks: {A: app.a}') == 1\n"
        "def test_two():\n"
        "    assert [stage.database._engine for stage in STAGES] == [None, None]\n",
        encoding="utf-8",
    )
    run(project)
