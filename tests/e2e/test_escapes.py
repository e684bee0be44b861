"""What an operation said reaches no terminal and no log raw; it is kept as it was said, and JSON has it so."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest

from e2e.evil_app import EVIL
from support.site import Site

pytestmark = pytest.mark.slow

# What a terminal could fall for; a new line and a tab are none of it.
RAW = ["\x1b", "\x07", "\r", "\u202e", "\u200b", "\u2028", "\x9b", "\x7f"]
JOB = """
job: J
tasks:
  A: {run: evil.say}
  B: {run: evil.say, kwargs: {fails: false}}
  C: {run: evil.say, after: A}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), app="e2e.evil_app") as site:
        site.start_broker()
        site.start_coordinator()
        site.start_server("AOS1", threads=1)
        site.start_server("AOS2", threads=1, pool="threads")
        (site.folder / "job.yaml").write_text(JOB)
        assert site.cli("submit", "job.yaml").stdout
        site.wait_end(1)
        yield site


def raw(text: str) -> list[str]:
    return [repr(character) for character in RAW if character in text]


def test_no_log_has_it_raw_and_a_record_is_one_line(site: Site) -> None:
    for word in ("logged", "told", "printed"):
        logs = "\n".join(site.log(name) for name in ("AOS1", "AOS2"))
        lines = [line for line in logs.split("\n") if f"{word} a\\x1b[2Jb" in line]
        assert lines, word
        assert all("\\n[2026-01-01" in line for line in lines)
    for name in ("AOS1", "AOS2", "coordinator"):
        assert raw(site.log(name)) == []
    assert not [line for line in logs.split("\n") if line.startswith("[2026-01-01")]


@pytest.mark.parametrize(
    "words",
    [
        "task show 1 A",
        "task log 1 A",
        "task log 1 B",
        "task why 1 C",
        "task list 1",
        "runs show 1",
        "runs list",
        "status",
        "check",
    ],
)
def test_no_command_prints_it_raw(site: Site, words: str) -> None:
    ended = site.cli(*words.split(), code=None)
    assert raw(ended.stdout + ended.stderr) == []
    if words.startswith("task show"):
        assert "raised a\\x1b[2Jb\\x07" in ended.stdout
    if words.startswith("task log"):
        assert "\\x1b[2Jb\\x07\\rc\\u202ed\\u200be\\u2028f\\x9b31mg\\x7f[red]h[/red]" in ended.stdout


@pytest.mark.parametrize("words", ["task show 1 A", "task log 1 A", "runs show 1"])
def test_nor_does_it_on_a_terminal(site: Site, words: str) -> None:
    here, there = pty.openpty()
    argv = [sys.executable, "-m", "batchq", *words.split()]
    with subprocess.Popen(argv, cwd=site.folder, env=site.env, stdin=there, stdout=there, stderr=there) as process:
        os.close(there)
        said = b""
        try:
            while chunk := os.read(here, 65536):
                said += chunk
        except OSError:  # the terminal's other end is closed
            pass
        assert process.wait(60) == 0
    os.close(here)
    text = said.decode()
    assert "[2J" in text
    assert "\x1b[2J" not in text
    assert not [each for each in raw(text) if each not in ("'\\x1b'", "'\\r'")]


def test_json_says_what_was_said(site: Site) -> None:
    said = site.cli("task", "log", "1", "A", "-o", "json").stdout
    assert raw(said) == []
    (one,) = site.json("task", "log", "1", "A")
    assert f"logged {EVIL}" in one["log"]
    assert f"raised {EVIL}" in one["error"]
