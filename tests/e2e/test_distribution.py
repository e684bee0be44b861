"""What is published: the distribution celery-batchq, whose import and command are batchq."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import batchq

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
ASK = """
from importlib.metadata import distribution, version
import batchq
entries = distribution("celery-batchq").entry_points
print(batchq.__file__)
print(version("celery-batchq") == batchq.__version__)
print(sorted((one.group, one.name, one.load().name) for one in entries if one.group == "celery.commands"))
print([one.load().__module__ for one in entries if (one.group, one.name) == ("console_scripts", "batchq")])
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def run(*argv: object, **options: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, argv)],
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made of the source distribution as `python -m build` does."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--outdir", folder, ROOT)
    run("-m", "twine", "check", "--strict", *folder.iterdir())
    (built,) = folder.glob("celery_batchq-*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(files.read(name).decode())


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path):
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=True,
    )
    with zipfile.ZipFile(wheel) as files:
        held = {name for name in files.namelist() if ".dist-info/" not in name}
    assert held == {name for name in listed.stdout.splitlines() if (SOURCE / name).is_file()}
    assert {"batchq/job.schema.json", "batchq/py.typed", "batchq/store/migrations/script.py.mako"} <= held


def test_the_metadata_says_all_that_an_index_shows(metadata: Message):
    assert (metadata["Name"], metadata["Version"]) == ("celery-batchq", batchq.__version__)
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"]
    assert "celery" in metadata["Keywords"].split(",")
    assert metadata["Description-Content-Type"] == "text/markdown"
    versions = {line.rpartition(" ")[2] for line in metadata.get_all("Classifier", []) if ":: 3." in line}
    assert versions == {"3.11", "3.12", "3.13", "3.14"}


def test_the_metadata_names_no_place(metadata: Message):
    assert "Project-URL" not in metadata
    assert "Home-page" not in metadata
    fields = "\n".join(value for _, value in metadata.items())
    assert not re.search(r"://|@ |(^|\s)/\w", fields)


def test_what_is_installed_from_the_wheel_is_found_by_both_names(wheel: Path, tmp_path: Path):
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path, wheel)
    where, same, commands, scripts = run("-c", ASK, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}).splitlines()
    assert where == str(tmp_path / "batchq" / "__init__.py")
    assert same == "True"
    assert commands == "[('celery.commands', 'batchq', 'batchq')]"
    assert scripts == "['batchq.cli']"
