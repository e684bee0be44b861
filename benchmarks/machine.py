"""What a report begins with: its kind, and the machine that it was measured on."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from importlib.metadata import version
from typing import Any

from batchq import __version__

FSYNCS = 50


def head(kind: str, postgresql: bool, **facts: Any) -> dict[str, Any]:
    """What a report begins with."""
    database = "postgresql" if postgresql else "sqlite"
    return {"kind": kind, "database": database, **facts, "machine": machine()}


def machine() -> dict[str, Any]:
    """What was measured on, and with what; `fsync_ms` is what it takes to have 4 KiB on disk, the median."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "fsync_ms": _fsync_ms(),
        "python": platform.python_version(),
        "celery": version("celery"),
        "batchq": __version__,
    }


def _fsync_ms() -> float:
    took = []
    with tempfile.TemporaryFile() as file:
        for _ in range(FSYNCS):
            file.write(bytes(4096))
            file.flush()
            start = time.monotonic()
            os.fdatasync(file.fileno())
            took.append(time.monotonic() - start)
    return sorted(took)[FSYNCS // 2] * 1000
