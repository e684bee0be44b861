"""A project whose operation says something in every way, under the set-up of logs that TALK_SETUP names.

As a program it does so under each set-up in a process of its own, as on both pools; into the folder that it is given it
writes what is kept as JSON, and beside it what the process wrote.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.utils.log import get_task_logger

from batchq import BatchQ

HANDLER = {"class": "logging.StreamHandler"}
CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": HANDLER},
    "loggers": {"talk.own": {"level": "INFO", "handlers": ["console"], "propagate": False}},
    "root": {"level": "WARNING", "handlers": ["console"]},
}
OFF = {"worker_redirect_stdouts": False}
# Each with Celery's settings, and what a receiver of `setup_logging` passes to dictConfig, if there is one.
SETUPS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "celery": ({}, None),
    "redirects off": (OFF, None),
    "redirects at a level that is off": ({"worker_redirect_stdouts_level": "DEBUG"}, None),
    "root not hijacked": ({"worker_hijack_root_logger": False}, None),
    "dictConfig": (OFF, CONFIG),
    "dictConfig beside redirects": ({}, CONFIG),
    "dictConfig that disables": ({}, CONFIG | {"disable_existing_loggers": True}),
    "no handler": (OFF, {"version": 1, "disable_existing_loggers": False}),
}
WAYS = ("print", "stderr", "first stderr", "own", "root", "task", "warning", "thread's print", "thread's logger")

own, tasks = logging.getLogger("talk.own"), get_task_logger("talk.tasks")
app = Celery("talk", set_as_current=False)


def prepare(setup: str) -> None:
    """Be a project with this set-up, before Celery looks at it."""
    settings, config = SETUPS[setup]
    app.conf.update(settings)
    if not settings.get("worker_hijack_root_logger", True):
        logging.basicConfig(format="the host's: %(message)s")
    if config is not None:
        signals.setup_logging.connect(lambda **_: logging.config.dictConfig(config), weak=False)


@app.task(name="talk.all", shared=False)
def say_all() -> None:
    """Say one thing in each way."""
    print("by print")
    sys.stderr.write("by stderr\n")
    print("by first stderr", file=sys.__stderr__)
    own.info("by own")
    own.debug("by a level that is off")
    logging.getLogger().warning("by root")
    tasks.warning("by task")
    warnings.warn("by warning", stacklevel=1)
    thread = threading.Thread(target=_say_beside)
    thread.start()
    thread.join()


def _say_beside() -> None:
    print("by thread's print")
    own.warning("by thread's logger")


@app.task(name="talk.fail", shared=False)
def fail(password: str = "") -> None:
    """Fail, with characters that no terminal should get, and a password."""
    own.warning("about to fail\x1b[2J\x7f", extra={"order": 7, "odd": {1.0: float("nan")}})
    raise ValueError(f"it failed\x1b[2J\nand more {password}")


@app.task(name="talk.die", shared=False)
def die() -> None:
    """End the process."""
    os._exit(7)


@app.task(name="talk.sleep", shared=False)
def sleep(seconds: float) -> None:
    """Take so many seconds."""
    time.sleep(seconds)


def _kept(alone: bool) -> str | None:
    from batchq.server.child.executing import execute
    from batchq.server.child.order import Current, Order

    app.set_current()
    return execute(Order("talk.all", "[]", "{}", "t", Current("J", 1, "A", 1), "h", "g", 9999, 9999, alone)).log


def _run(setup: str, place: Path) -> None:
    """Run the operation as on both pools, after Celery has set up its logs as a worker does."""
    out = sys.stdout
    file = os.open(place.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    prepare(setup)
    handled = app.log.setup("INFO", None, redirect_stdouts=False)
    if not handled and app.conf.worker_redirect_stdouts:
        app.log.redirect_stdouts(app.conf.worker_redirect_stdouts_level)
    with ThreadPoolExecutor(1) as pool:
        kept = {"threads": pool.submit(_kept, False).result()}
    kept["prefork"] = _kept(True)
    out.flush()
    place.with_suffix(".json").write_text(json.dumps(kept))


def main(folder: Path) -> None:
    """Do so for each set-up."""
    from batchq.server.child import executing

    assert executing
    for setup in SETUPS:
        if not os.fork():
            try:
                _run(setup, folder / setup)
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(0)
        os.wait()


if os.environ.get("TALK_JOINS"):
    BatchQ(app)
if __name__ == "__main__":
    main(Path(sys.argv[1]))
else:
    prepare(os.environ.get("TALK_SETUP", "celery"))
