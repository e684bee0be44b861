"""Fixtures for the command line: `batchq(*words)` runs a command on the stage's database."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kombu import pools

from batchq.cli import cli
from support import brokers
from support.site import Folder

Command = Callable[..., Result]

NO_APP = re.compile(rb"\ANo app is named: .*\n")


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """The URL of a Valkey for all commands."""
    with tempfile.TemporaryDirectory(prefix="bq-") as private, Folder(Path(private)) as folder:
        valkey = brokers.Valkey(folder.folder)
        folder._start("broker", valkey.argv, valkey.env)
        folder.wait_for("the broker", valkey.answers)
        yield valkey.url


@pytest.fixture
def batchq(stage: Any, broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Run a command in the stage's folder; the broker takes all, and only a test that asks for it advances."""
    for name in ("BATCHQ_APP", "BATCHQ_DATABASE_URL", "BATCHQ_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BATCHQ_HOME", str(tmp_path))
    monkeypatch.setenv("BATCHQ_FAST_PATH", "0")
    monkeypatch.setenv("CELERY_BROKER_URL", broker)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)

    def run(*words: object, code: int = 0, obj: object = None, typed: str | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(word) for word in words], obj=obj, input=typed)
        assert result.exit_code == code, result.output
        # What each says where no app is named has its own test.
        result.stderr_bytes = NO_APP.sub(b"", result.stderr_bytes, count=1)
        return result

    yield run
    # A process that a later test forks would read from what is left open here.
    pools.reset()


@pytest.fixture
def batchq_json(batchq: Command) -> Callable[..., Any]:
    """Run a command with `-o json`; returns what it printed."""

    def run(*words: object, code: int = 0) -> Any:
        return json.loads(batchq(*words, "-o", "json", code=code).stdout)

    return run
