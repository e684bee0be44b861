"""The watch over a batch server: its heartbeat, what SQL wants of it, and a pool as large as the present window."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from batchq import clock, engine
from batchq.config import Settings
from batchq.core.topology import Server
from batchq.engine import Life
from batchq.errors import DatabaseDamaged, DatabaseTooNew, DatabaseUnreachable
from batchq.server.aborting import Aborts
from batchq.server.celery_types.loop import Hub
from batchq.server.ledger import Ledger
from batchq.server.pool import Following
from batchq.store import moves, schema
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.database import Database
from batchq.store.group import group_priorities

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
LOOK_SECONDS = 0.25
# The least time between two looks, however often others ask for one.
LEAST_SECONDS = 0.1
# A watch without a look for this long stood still: its earlier observations mean nothing.
STOOD_STILL_SECONDS = 5
HOUR = timedelta(hours=1)


def connection_of_its_own(database: Database) -> Database:
    """Return the database over connections of its own, for a thread beside the loop."""
    return Database(str(database.url.render_as_string(hide_password=False)), name=database.name)


class Watch(threading.Thread):
    """Beats the server's heart, and reads twice a second what SQL wants of it; never touches the loop's state.

    `database` is the watch's own: the loop must not wait for it.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        ledger: Ledger,
        aborts: Aborts | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="batchq-watch", daemon=True)
        self.wanted: tuple[frozenset[str], Server] | None = None
        self.too_new: DatabaseTooNew | None = None
        self._database = database
        self._settings = settings
        self._ledger = ledger
        self._aborts = aborts or Aborts()
        self._monotonic = monotonic
        self._missing: dict[str, float] = {}
        self._ended = threading.Event()
        self._nudged = threading.Event()
        self._looked_at = monotonic()

    def run(self) -> None:
        """Look and beat until the end; no error ends the thread, or the server would count as lost."""
        beat_at = 0.0
        pause = min(WATCH_SECONDS, self._settings.heartbeat_seconds)
        while True:
            try:
                if self._monotonic() >= beat_at:
                    self._beat()
                    beat_at = self._monotonic() + self._settings.heartbeat_seconds - pause / 2
                self._look()
            except DatabaseTooNew as error:
                self.too_new = error
            except (DatabaseUnreachable, SQLAlchemyError) as error:
                logger.debug("the watch waits for the database: %s", error)
            except Exception:
                logger.exception("the watch failed, and goes on")
            looked_at = self._monotonic()
            if self._nudged.wait(pause):
                self._ended.wait(looked_at + LEAST_SECONDS - self._monotonic())
                self._nudged.clear()
            if self._ended.is_set():
                return

    def look(self) -> None:
        """Have SQL read at once, or as soon as LEAST_SECONDS allows; callable from any thread."""
        self._nudged.set()

    @property
    def lost(self) -> DatabaseDamaged | None:
        """The reason why waiting for the database helps no more."""
        return self._database.lost

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._nudged.set()
        self.join(timeout=5)

    def _beat(self) -> None:
        self._database.check_file()
        life = self._ledger.life
        if not self._database.run(lambda tx: servers.beat(tx, life.server, life.epoch, tx.now())):
            self._ledger.fenced = self._ledger.life == life

    def _look(self) -> None:
        life = self._ledger.life
        self._aborts.mark(self._database)
        with self._database.read() as tx:
            schema.refuse_newer(tx)
            topology = topologies.current(tx)
            groups = frozenset(group_priorities(tx))
            executing = moves.executing_on(tx, life.server)
        server = topology.by_id.get(life.server)
        if server is None:
            return  # deleted while it counted as lost: the next heartbeat finds that out
        self.wanted = frozenset(g for g in groups if topology.serves(server, g)), server
        mine = [row for row in executing if row.epoch == life.epoch]
        self._aborts.find(row.token for row in mine if row.abort)
        self._look_for_lost(life, {row.token for row in mine})

    def _look_for_lost(self, life: Life, executing: set[str]) -> None:
        """Declare attempts lost that SQL has here, and that this server has not had for a while (rule 31)."""
        now = self._monotonic()
        if now - self._looked_at > STOOD_STILL_SECONDS:
            self._missing.clear()
        self._looked_at = now
        # A loop that stood still hears of its commit's claims late: they would count as missing until then.
        began = self._ledger.began
        gone = {token for token in executing if not self._ledger.has(token)}
        self._missing = {token: self._missing.get(token, now) for token in gone}
        due = [token for token, since in self._missing.items() if now - since > self._settings.lost_attempt_seconds]
        lost = [token for token in due if began is None or began > self._missing[token]]
        if lost:
            logger.error("%d attempts are in the books but not here: they are lost", len(lost))
            self._database.run(lambda tx: engine.recover_missing(tx, life, lost, tx.now()))


class Fitting:
    """Keeps the pool as large as the present window wants, from the worker's loop."""

    def __init__(self, watch: Watch, ledger: Ledger, pool: Following, hub: Hub) -> None:
        self.threads = 0
        self._watch = watch
        self._ledger = ledger
        self._pool = pool
        self._hub = hub
        self._change: tuple[Server, datetime, datetime | None] | None = None
        self._fit_at = 0.0

    def fit(self) -> None:
        """Follow the present window; when more may start than before, see to it at once (rule 20)."""
        if self._watch.wanted is None:
            return
        _, seen = self._watch.wanted
        # Only the claim asks the database's clock; to be ready in time this machine's is good enough.
        now = clock.now()
        before, self.threads = self.threads, seen.threads_now(now)
        self._ledger.threads = self.threads
        # A commit under way counted on the present size, and may yet claim as many.
        least = self._pool.size if self._ledger.commits else len(self._ledger.active)
        if not self._pool.fit(max(self.threads, least)):
            self._fit_soon(LOOK_SECONDS / 5)
        if self.threads > before:
            self._ledger.go_on()
        self._wait_for_change(seen, now)

    def _fit_soon(self, seconds: float) -> None:
        """Fit once more before the next look; several calls make one extra fit."""
        now = time.monotonic()
        if now >= self._fit_at:
            self._fit_at = now + seconds
            self._hub.call_later(seconds, self.fit)

    def _wait_for_change(self, seen: Server, now: datetime) -> None:
        """Be there in the instant in which a window opens or closes, if that is before the next look."""
        if self._change is None or self._change[0] != seen or not self._change[1] <= now < self._change[1] + HOUR:
            self._change = seen, now, seen.next_change(now)
        change = self._change[2]
        if change and 0 < (seconds := clock.real_seconds(change - now)) < LOOK_SECONDS:
            self._fit_soon(seconds + 0.001)
