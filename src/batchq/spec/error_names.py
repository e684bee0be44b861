"""The names of errors in `retry_on` and `retry_never_on` (rule 30c)."""

from __future__ import annotations

import builtins

from batchq.core.retries import NAMED
from batchq.spec.faults import near, shown

# The names that a slip of the fingers may have meant.
USUAL = tuple(
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
)


def error_name(name: str) -> str:
    """The name, if Python could have such a class; raises ValueError, with the closest name of an error."""
    parts = name.split(".")
    if not all(part.isidentifier() or part == "<locals>" for part in parts):
        advice = near(name, (*NAMED, *USUAL)) or "; write it as in Python: ConnectionError, or shop.errors.Late"
        raise ValueError(f"{shown(name)} cannot be the name of an error's class{advice}")
    if parts[0] == "batchq" and len(parts) == 2 and name not in NAMED:
        raise ValueError(f"batchq has no error {shown(name)}{near(name, NAMED)}; it has {', '.join(NAMED)}")
    return name
