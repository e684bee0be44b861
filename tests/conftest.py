"""Fixtures for all tests: a fresh database, and a stage on which jobs are played without processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchq.store import schema
from batchq.store.database import Database
from stage import Stage


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the newest schema and nothing in it, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "batchq.db"
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    database.dispose()
    return path


@pytest.fixture
def stage(empty_database: Path, tmp_path: Path) -> Iterator[Stage]:
    path = tmp_path / "batchq.db"
    shutil.copy(empty_database, path)
    database = Database(f"sqlite:///{path}")
    yield Stage(database)
    database.dispose()
