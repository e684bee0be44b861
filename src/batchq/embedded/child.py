"""A child process: started, started again when it dies, told to end, and never left behind."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from batchq.config import private_file
from batchq.errors import BatchqError, PlaceRefuses

ELSEWHERE = "Let this user write there, or set BATCHQ_HOME to another folder."
START_SECONDS = 30.0
STOP_SECONDS = 10.0
# A child that dies again and again is started less and less often, up to this.
MOST_PAUSE_SECONDS = 10.0
MOST_YOUNG_DEATHS = 4
PR_SET_PDEATHSIG = 1


class StartFailed(BatchqError):
    """A child ended as it started, or did not get ready in time."""

    code = "start-failed"
    text = "{what} {fact}. Its log: {log}"


@dataclass
class Child:
    """A child process: its command, and how often it had to be started again."""

    name: str
    argv: list[str]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    again_at: float = 0.0
    started: float = 0.0
    young_deaths: int = 0

    def start(self) -> None:
        """Start it; it dies with this process, whatever happens."""
        self.started = time.monotonic()
        try:
            private_file(self.log)
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self.argv,
                    env=dict(self.env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_dies_with_parent,
                    start_new_session=True,
                )
        except OSError as error:
            raise PlaceRefuses.of(error, self.log, ELSEWHERE) from error

    def mend(self) -> bool:
        """Start it again if it died; True if it had died. Raises StartFailed once it died young several times."""
        if self.process is None or (code := self.process.poll()) is None:
            return False
        if not self.again_at:
            self.deaths += 1
            self.young_deaths = self.young_deaths + 1 if time.monotonic() - self.started < START_SECONDS else 0
            if self.young_deaths == MOST_YOUNG_DEATHS:
                fact = f"ended {self.young_deaths} times soon after its start, the last time with exit code {code}"
                raise StartFailed(what=self.name, fact=fact, log=self.log)
            self.again_at = time.monotonic() + min(0.1 * 2**self.deaths, MOST_PAUSE_SECONDS)
        if time.monotonic() >= self.again_at:
            self.again_at = 0.0
            self.start()
        return True

    def tell(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def _dies_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end(children: list[Child]) -> None:
    """End them all at once; those that do not end in time are killed."""
    for child in children:
        child.tell(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        if child.process is not None:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
