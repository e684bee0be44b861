"""batchq: batch jobs for Celery."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchq.app import BatchQ as BatchQ
    from batchq.server.child.order import Current as Current
    from batchq.server.child.order import current as current
    from batchq.spec import Job as Job

__version__ = "0.1.0"
__all__ = ["BatchQ", "Current", "Job", "__version__", "current"]

# Each name is imported when it is asked for: a project that only submits need not wait for the rest.
_HOME = {
    "BatchQ": "batchq.app",
    "Current": "batchq.server.child.order",
    "current": "batchq.server.child.order",
    "Job": "batchq.spec",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'batchq' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
