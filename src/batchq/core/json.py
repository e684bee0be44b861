"""JSON values: arguments, results and definitions of jobs are made of them."""

from __future__ import annotations

from typing import Any, TypeAlias

# No recursive type: pydantic would recurse as deep as the input. `spec` checks each value itself.
JSON: TypeAlias = Any
