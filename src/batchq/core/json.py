"""JSON values: arguments, results and definitions of jobs are made of them."""

from __future__ import annotations

from typing import Any, TypeAlias

# A recursive type would make pydantic recurse as deep as the input, and `spec` looks at each value itself.
JSON: TypeAlias = Any
