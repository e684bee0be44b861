"""Wrong files, and brokers and databases that are away: one clear sentence, the exit code, nothing stored."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.site import Folder

GOOD = "job: GOOD\ntasks: {A: {run: demo.work}}\n"
# What is in the file, and what the message must say of it, besides the file's name.
FILES = {
    "a cycle": (
        "job: J\ntasks:\n  A: {run: demo.work, after: B}\n  B: {run: demo.work, after: A}\n",
        ["file:4: tasks.B.after", "'A' → 'B' → 'A'"],
    ),
    "an unknown predecessor": (
        "job: J\ntasks:\n  TASK 1: {run: demo.work}\n  TASK 2: {run: demo.work, after: TSK 1}\n",
        ["file:4: tasks.TASK 2.after", "'TSK 1'", "'TASK 1'"],
    ),
    "a duplicate name": (
        "job: J\ntasks:\n  A: {run: demo.work}\n  A: {run: demo.work}\n",
        ["file:4: ", "'A'"],
    ),
    "an unknown operation": ("job: J\ntasks:\n  A: {run: demo.wrok}\n", ["J / A", "'demo.wrok'", "'demo.work'"]),
    "no task": ("job: J\ntasks: {}\n", ["file:2: tasks"]),
    "nothing": ("", ["file:1: holds no job"]),
    "no text": (b"\x7fELF\x02\x01\x01\x00\x00\xff\xfe\n", ["file:1: "]),
    "a tag": ("job: J\ntasks:\n  A: {run: !!python/object/apply:os.system [id]}\n", ["file:3: "]),
    "an unknown key": ("job: J\ntasks:\n  A: {run: demo.work, retires: 2}\n", ["file:3: tasks.A", "'retries'"]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with Folder(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize("what", FILES)
def test_a_wrong_file_is_refused_with_its_place_and_nothing_is_stored(folder: Folder, what: str) -> None:
    content, said = FILES[what]
    path = folder.folder / "job.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    refused = folder.cli("run", "job.yaml", code=2)

    assert refused.stdout == ""
    assert "Traceback" not in refused.stderr
    (line,) = refused.stderr.splitlines()
    assert line.startswith("Error: ")
    assert [part for part in said if part.replace("file", "job.yaml", 1) not in line] == []
    assert list(folder.folder.iterdir()) == [path]


def test_a_file_that_is_not_there_is_refused(folder: Folder) -> None:
    refused = folder.cli("run", "job.yaml", code=2)
    assert "job.yaml" in refused.stderr
    assert list(folder.folder.iterdir()) == []


def test_a_broker_that_is_away_is_exit_code_4_with_advice_and_nothing_is_stored(folder: Folder) -> None:
    (folder.folder / "job.yaml").write_text(GOOD)
    url = f"redis://127.0.0.1:{closed_port()}/0"

    refused = folder.cli("submit", "job.yaml", code=4, BATCHQ_BROKER_URL=url)

    assert f"The broker {url} does not answer" in refused.stderr
    assert "Start it, or set BATCHQ_BROKER_URL" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert folder.json("runs", "list") == []


@pytest.mark.parametrize("words", [("submit", "job.yaml"), ("server", "start", "AOS1"), ("runs", "list")], ids=" ".join)
def test_a_database_that_is_away_is_exit_code_4_with_advice(folder: Folder, words: tuple[str, ...]) -> None:
    (folder.folder / "job.yaml").write_text(GOOD)
    url = f"postgresql+psycopg://batchq:secret@127.0.0.1:{closed_port()}/batchq"

    refused = folder.cli(*words, code=4, BATCHQ_DATABASE_URL=url)

    assert f"The database {url.replace('secret', '***')} does not answer" in refused.stderr
    assert "Start it, or set BATCHQ_DATABASE_URL" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "secret" not in refused.stderr + refused.stdout


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
