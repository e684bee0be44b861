"""The README's first command, word for word, in a fresh copy with a fresh virtual environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import book

COMMAND = (
    "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/batchq run examples/job1.yaml "
    "--server Batch1 --server Batch2"
)


@pytest.fixture
def fresh_copy(tmp_path: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=book.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (book.ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(book.ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_first_command_of_the_readme_installs_and_runs_the_example(fresh_copy: Path):
    assert book.commands("README.md")[0] == COMMAND
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BATCHQ_", "CELERY_", "VIRTUAL_ENV"))}

    done = subprocess.run(["bash", "-c", COMMAND], cwd=fresh_copy, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"JOB 1 run 1: Ended after [\d.]+ s \(5 Ended, 2 Didn't run\)", done.stdout)
    assert len(re.findall(r"executing   on Batch[12]", done.stdout)) == 5
