"""A project with settings that would break our tickets if they reached them, and tasks that use Celery's own ways."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from batchq import current

SETTINGS: dict[str, Any] = {
    "task_default_queue": "strange",
    "task_routes": {"*": {"queue": "strange"}},
    "task_create_missing_queues": False,
    "task_always_eager": True,
    "task_serializer": "pickle",
    "result_serializer": "pickle",
    "accept_content": ["pickle"],
    "result_backend": f"file://{Path.cwd() / 'results'}",
    "task_store_errors_even_if_ignored": True,
    "task_track_started": True,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_annotations": {"*": {"rate_limit": "1/h"}},
    "task_default_rate_limit": "1/h",
    "worker_max_tasks_per_child": 1,
    "worker_prefetch_multiplier": 7,
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "worker_soft_shutdown_timeout": 60,
    "worker_enable_soft_shutdown_on_idle": True,
    "broker_connection_retry": False,
    "broker_connection_retry_on_startup": False,
    "broker_connection_max_retries": 1,
    "broker_heartbeat": 0,
    "broker_transport_options": {"socket_timeout": 90, "health_check_interval": 90, "retry_on_timeout": True},
    "worker_concurrency": 5,
    "worker_pool": "solo",
    "enable_utc": False,
    "timezone": "Asia/Tokyo",
    "beat_schedule": {"often": {"task": "host.tick", "schedule": 0.2}},
}

logger = logging.getLogger(__name__)

app = Celery("host", set_as_current=False)
app.conf.update(SETTINGS)


def note(line: str) -> None:
    """Append a line to the notes, in one write."""
    file = os.open("notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{line}\n".encode())
    os.close(file)


@app.task(name="host.tick")
def tick() -> None:
    """What the project's own beat fires."""
    note("the project's own beat fired")


@app.task(name="host.who", bind=True)
def who(self: Task) -> dict[str, Any]:
    """Return what the operation is told about itself."""
    return {**asdict(current()), "retries_so_far": self.request.retries, "pid": os.getpid()}


@app.task(name="host.sleep")
def sleep(seconds: float) -> str:
    """Take so many seconds."""
    time.sleep(seconds)
    return "slept"


@app.task(name="host.retry", bind=True, max_retries=5)
def retry(self: Task) -> None:
    """Ask Celery for another try."""
    note("host.retry runs")
    raise self.retry(countdown=0)


@app.task(name="host.autoretry", autoretry_for=(ValueError,), retry_backoff=False, default_retry_delay=0)
def autoretry() -> None:
    """Fail in a way for which Celery would try again."""
    note("host.autoretry runs")
    raise ValueError("not today")


@app.task(name="host.ignore")
def ignore() -> None:
    """Be ignored."""
    raise Ignore


@app.task(name="host.reject")
def reject() -> None:
    """Be rejected."""
    raise Reject("no")


@app.task(name="host.soft", soft_time_limit=1)
def soft() -> str:
    """Clean up when the time is over."""
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "never told"


@app.task(name="host.talk")
def talk() -> None:
    """Print and log."""
    print("a printed line")
    logger.warning("a logged line")


@app.task(name="host.result")
def result() -> dict[str, Any]:
    """Return a JSON value."""
    return {"rows": 3, "names": ["Ærø", None], "share": 0.25}


class Hooked(Task):
    """A task class with all hooks."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note(f"{current().task}: before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(f"{current().task}: on_success {retval}")

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(f"{current().task}: on_failure {exc}")

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(f"{current().task}: after_return {status}")


@app.task(name="host.hooked", base=Hooked)
def hooked(fail: bool = False) -> str:
    """Succeed or fail."""
    if fail:
        raise RuntimeError("broken")
    return "fine"


@signals.task_prerun.connect
def told_before(sender: Task, **_: Any) -> None:
    """A receiver as projects have them, for logs and metrics."""
    if sender.name == "host.hooked":
        note(f"{current().task}: task_prerun")


@signals.task_postrun.connect
def told_after(sender: Task, state: str, **_: Any) -> None:
    """The same, afterwards."""
    if sender.name == "host.hooked":
        note(f"{current().task}: task_postrun {state}")
