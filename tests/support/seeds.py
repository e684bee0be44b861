"""Random cases by number: a few in every run of the tests, the others with the slow ones."""

from __future__ import annotations

from typing import Any

import pytest


def seeds(few: int, all_: int) -> list[Any]:
    """The parameters of a test that plays the numbers below `all_`; those from `few` on are slow."""
    return [pytest.param(seed, marks=() if seed < few else pytest.mark.slow) for seed in range(all_)]
