"""The fixtures that pytest finds by itself; the engine is imported when a test asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from batchq.testing import Played, Stage


@pytest.fixture
def batchq_play() -> Callable[..., Played]:
    """Play a job to its end, as `batchq.testing.play` does."""
    from batchq.testing import play

    return play


@pytest.fixture
def batchq_stage() -> Iterator[Callable[..., Stage]]:
    """Make a stage, as `batchq.testing.Stage` does; it is closed after the test."""
    from contextlib import ExitStack

    from batchq.testing import Stage

    with ExitStack() as stages:
        yield lambda *args, **options: stages.enter_context(Stage(*args, **options))
