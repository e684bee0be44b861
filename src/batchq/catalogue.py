"""The operations of jobs: which tasks of the app they may run, and whether a job fits them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING

from celery import Celery
from celery.utils.time import rate

from batchq.config import Settings
from batchq.errors import InvalidInput, closest

if TYPE_CHECKING:
    from batchq.spec import JobSpec


# A server asks this of each attempt that it starts.
@lru_cache
def _allowed(operation: str, patterns: str, shell: bool) -> bool:
    if operation.startswith(("celery.", "batchq.")) or (operation == "shell.run" and not shell):
        return False
    return any(fnmatchcase(operation, pattern.strip()) for pattern in patterns.split(","))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The tasks of an app that the settings let jobs run."""

    app: Celery
    settings: Settings

    def names(self) -> list[str]:
        """The names of all tasks that a job may run."""
        self.app.loader.import_default_modules()
        return sorted(filter(self.allows, self.app.tasks))

    def allows(self, operation: str) -> bool:
        """Whether a job may run the task of this name: one that the settings allow, and neither Celery's nor ours."""
        return _allowed(operation, self.settings.allowed_operations, self.settings.allow_shell)

    def repeatable(self) -> list[str]:
        """The names of the tasks that do no harm if they run once more: `@app.task(repeatable=True)`."""
        return [name for name, task in self.app.tasks.items() if getattr(task, "repeatable", False) is True]

    def rate_limits(self, operations: Iterable[str]) -> str | None:
        """A sentence that names the operations with a `rate_limit`, which does not hold here; None if none has one."""
        if self.app.conf.worker_disable_rate_limits:
            return None
        tasks = ((name, self.app.tasks.get(name)) for name in sorted(set(operations)))
        found = [f"{name} {task.rate_limit}" for name, task in tasks if task is not None and rate(task.rate_limit)]
        if not found:
            return None
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        said = f"{', '.join(found[:5])}{more}"
        return f"rate_limit does not hold for operations ({said}): threads and windows decide how many run at once."

    def check(self, job: JobSpec) -> None:
        """Raise InvalidInput unless the app knows every operation of the job, and each takes its arguments."""
        from batchq.spec import arguments

        self.app.loader.import_default_modules()
        registered = self.app.tasks
        refused = {run for run in job.operations if run not in registered or not self.allows(run)}
        if not refused:
            arguments.check(job, self.app.tasks)
            return
        unknown = {task.run: task.name for task in reversed(job.tasks) if task.run is not None and task.run in refused}
        operation, task = next(reversed(unknown.items()))
        if operation == "shell.run":
            raise InvalidInput(f"{job.name} / {task}: shell.run is switched off; BATCHQ_ALLOW_SHELL=1 allows it.")
        if operation in self.app.tasks:
            patterns = self.settings.allowed_operations
            allowed = f"the settings allow {patterns!r} (BATCHQ_ALLOWED_OPERATIONS), and never Celery's own"
            raise InvalidInput(f"{job.name} / {task}: {operation!r} may not be run: {allowed}.")
        more = f" {len(unknown) - 1} more are unknown." if len(unknown) > 1 else ""
        raise InvalidInput(
            f"{job.name} / {task}: no task named {operation!r} is registered with the Celery app "
            f"{self.app.main or '?'!r}{closest(operation, self.names())}. Is its module imported?{more}"
        )
