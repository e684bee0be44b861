"""A driver that plays jobs on each kind of database."""

from __future__ import annotations

import pytest

from play import Clocked, Play


@pytest.fixture
def batch(database: Clocked) -> Play:
    return Play(database)
