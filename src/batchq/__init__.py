"""batchq: batch jobs for Celery.

PYTEST_DONT_REWRITE: pytest would else warn whoever imports batchq before pytest begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchq.lazy import attributes

if TYPE_CHECKING:
    from batchq.app import BatchQ as BatchQ
    from batchq.core.retries import Final as Final
    from batchq.core.retries import Lost as Lost
    from batchq.core.retries import TimedOut as TimedOut
    from batchq.server.child.order import Current as Current
    from batchq.server.child.order import current as current
    from batchq.spec import Job as Job

__version__ = "0.1.0"
__all__ = ["BatchQ", "Current", "Final", "Job", "Lost", "TimedOut", "__version__", "current"]

# A project that only submits need not wait for the rest.
__getattr__ = attributes(
    __name__,
    {
        "BatchQ": "batchq.app",
        "Current": "batchq.server.child.order",
        "current": "batchq.server.child.order",
        "Final": "batchq.core.retries",
        "Job": "batchq.spec",
        "Lost": "batchq.core.retries",
        "TimedOut": "batchq.core.retries",
    },
)
