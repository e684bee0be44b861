"""The ledger app in a world that is unkind to it: its wall clock jumps, and each ticket comes up to three times.

The clock of all processes follows the file that `CHAOS_CLOCK` names, which holds how many seconds it is ahead. With
`CHAOS_COPIES` set every ticket is published one to three times, some copies later, beside those of other tasks.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from datetime import timedelta
from pathlib import Path
from typing import Any

import time_machine
from kombu import Producer

from drills.chaos import hostile
from support.ledger_app import app as app

CLOCK = "CHAOS_CLOCK"
COPIES = "CHAOS_COPIES"
LOOK_SECONDS = 0.1
MOST_COPIES = 3
OLDER_COPIES = 30

_published = Producer.publish
_kept: deque[tuple[Any, dict[str, Any]]] = deque(maxlen=OLDER_COPIES)
_rng = random.Random()


class Follower(threading.Thread):
    """Keeps the wall clock of this process as far ahead as the file says; the monotonic one goes on as ever."""

    def __init__(self, path: Path, traveller: time_machine.Traveller, shown: float = 0.0) -> None:
        super().__init__(name="chaos-clock", daemon=True)
        self.shown = shown
        self._path = path
        self._traveller = traveller

    def run(self) -> None:
        while True:
            self.follow()
            time.sleep(LOOK_SECONDS)

    def follow(self) -> None:
        """Be as far ahead as the file says now."""
        said = float(self._path.read_text() or "0") if self._path.exists() else 0.0
        if said != self.shown:
            self._traveller.shift(timedelta(seconds=said - self.shown))
            self.shown = said

    def again(self) -> None:
        """Go on in a process that was forked off, which has none of its parent's threads."""
        Follower(self._path, self._traveller, self.shown).start()


def follow_clock() -> None:
    """Let this process, and all that it forks off, show the time of the file."""
    follower = Follower(Path(os.environ[CLOCK]), time_machine.travel(time.time()).start())
    follower.follow()
    follower.start()
    os.register_at_fork(after_in_child=follower.again)


def publish(self: Producer, body: Any, **options: Any) -> Any:
    """Kombu's publish; but a ticket goes out one to three times, together with copies of some older ones."""
    if not str(options.get("routing_key")).startswith("batchq.") or "expires" in (options.get("headers") or {}):
        return _published(self, body, **options)
    own = [(body, options)] * _rng.randint(1, MOST_COPIES)
    older = _rng.sample(_kept, min(len(_kept), _rng.choice([0, 0, 1, 2])))
    if _rng.random() < 0.5:
        _kept.append((body, options))
    messages = _rng.sample([*own, *older], len(own) + len(older))
    for content, how in messages[:-1]:
        _published(self, content, **how)
    return _published(self, messages[-1][0], **messages[-1][1])


def begin() -> None:
    """Let it be as the environment says."""
    hostile.register(app)
    if CLOCK in os.environ:
        follow_clock()
    if COPIES in os.environ:
        Producer.publish = publish


begin()
