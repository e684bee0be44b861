"""Wrong files, and brokers and databases that are away: one clear sentence, the exit code, nothing stored."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.site import Folder

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
# Read by a real command in every run of the tests; the others are slow tests here, and in no process in spec and cli.
ALWAYS = ("a cycle", "an unknown operation", "no text")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with Folder(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what in ALWAYS else pytest.mark.slow) for what in FILES]
)
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


@pytest.mark.parametrize(
    ("words", "said", "commands"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'psycopg'\", name='psycopg')",
            "No module named 'psycopg'",
            ("submit job.yaml", "status", "db upgrade", "coordinator", "server start AOS1"),
        ),
        # What it says where it is installed without its own copy of PostgreSQL's library, and there is no other.
        (
            "raise ImportError('no pq wrapper available.\\nAttempts made:\\n- ...')",
            "no pq wrapper available",
            ("status",),
        ),
    ],
    ids=["not installed", "without libpq"],
)
def test_postgresql_without_its_driver_is_one_sentence_with_what_to_install(
    folder: Folder, words: str, said: str, commands: tuple[str, ...]
) -> None:
    (folder.folder / "job.yaml").write_text("job: J\ntasks: {A: {run: shop.add}}\n")
    (folder.folder / "lacking").mkdir()
    (folder.folder / "lacking" / "psycopg.py").write_text(words)
    lacks = {
        "PYTHONPATH": os.pathsep.join([str(folder.folder / "lacking"), folder.env["PYTHONPATH"]]),
        "BATCHQ_DATABASE_URL": "postgresql+psycopg://ops:secret@127.0.0.1:1/x",
    }
    (folder.folder / "shop.py").write_text(
        "from celery import Celery\napp = Celery('shop')\n@app.task\ndef add(): pass\n"
    )
    for command in commands:
        (line,) = folder.cli("-A", "shop", *command.split(), code=2, **lacks).stderr.splitlines()
        assert line == (
            "Error: The database postgresql+psycopg://ops:***@127.0.0.1:1/x needs the driver psycopg, which cannot be "
            f"imported ({said}): pip install 'celery-batchq[postgres]'."
        )


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
