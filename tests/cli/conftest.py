"""Fixtures for the command line: `batchq(*words)` runs a command on the stage's database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from batchq.cli import cli

Command = Callable[..., Result]


@pytest.fixture
def batchq(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in the stage's folder; the broker is one in memory, and only a test that asks for it advances."""
    for name in ("BATCHQ_APP", "BATCHQ_DATABASE_URL", "BATCHQ_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BATCHQ_HOME", str(tmp_path))
    monkeypatch.setenv("BATCHQ_FAST_PATH", "0")
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)

    def run(*words: object, code: int = 0, obj: object = None) -> Result:
        result = CliRunner().invoke(cli, [str(word) for word in words], obj=obj)
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def batchq_json(batchq: Command) -> Callable[..., Any]:
    """Run a command with `-o json`; returns what it printed."""

    def run(*words: object, code: int = 0) -> Any:
        return json.loads(batchq(*words, "-o", "json", code=code).stdout)

    return run
