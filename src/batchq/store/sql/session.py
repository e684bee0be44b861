"""A session of PostgreSQL: how it begins, which of its settings are fixed, and how long it may be silent."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from sqlalchemy.engine import URL

from batchq.errors import DatabaseRefuses
from batchq.store.sql.postgresql import WAYS
from batchq.store.sql.untyped import Options
from batchq.store.sql.wire import has_ended

T = TypeVar("T")

# Nobody waits longer for a lock: a session that says nothing for longer counts as away.
LOCK_SECONDS = 5.0
# An operator's lock_timeout is cut to a second less: no wait for a lock may pass for silence.
MOST_SECONDS = 8.0
# PostgreSQL ends a transaction after this silence of its process: a stopped process would keep its locks.
SILENT_SECONDS = 6
# These hold whatever the role, the database, the environment or the URL says: under others a session would store or
# read other values than were meant.
FIXED = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "row_security": "on",
}
_FIX = "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in FIXED.items())
# Only where it is otherwise: to set it may need a right, and a stricter value than `on` may stay.
_MEND = """
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                THEN set_config('synchronous_commit', 'on', false) END,
           CASE WHEN current_setting('session_replication_role') <> 'origin'
                THEN set_config('session_replication_role', 'origin', false) END,
           CASE WHEN current_setting('transaction_timeout', true) <> '0'
                THEN set_config('transaction_timeout', '0', false) END,
           extract(epoch FROM current_setting('lock_timeout')::interval)::float
"""


def settings(url: URL, patience: float, answer: float, name: str) -> Options:
    """The driver's options for a session; those of the URL, PGOPTIONS and PGAPPNAME win."""
    values = {
        "lock_timeout": int(min(patience, LOCK_SECONDS) * 1000),
        "idle_in_transaction_session_timeout": SILENT_SECONDS * 1000,
        # A limit that a role has for its people would break off a large submit at each of its tries.
        "statement_timeout": 0,
        # Every statement that is run often has its index. So one plan does for good, also while a table that was
        # empty grows: another way that was chosen for few rows would be kept until the next ANALYZE. And only a
        # walk along an index marks its dead entries, so that the next walk passes over them.
        **dict.fromkeys(WAYS, "off"),
        "plan_cache_mode": "force_generic_plan",
        "jit": "off",
    }
    ours = " ".join(f"-c {key}={value}" for key, value in values.items())
    theirs = url.query.get("options") or os.environ.get("PGOPTIONS", "")
    given = {
        "fallback_application_name": name,
        # Its own prepared statements, and its DEALLOCATE ALL after a rollback, would get in the way of ours.
        "prepare_threshold": None,
        "connect_timeout": max(2, int(min(patience, LOCK_SECONDS))),
        # A host that is gone without a word is noticed within 25 s, not after a quarter of an hour.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
    }
    given = {key: value for key, value in given.items() if key not in url.query}
    return given | {"options": " ".join([ours, *([theirs] if isinstance(theirs, str) else theirs)]).strip()}


class Session(psycopg.Connection[TupleRow]):
    """A connection that closes itself when an answer takes longer than `answer_seconds`."""

    answer_seconds = 60.0
    rests_since: float | None = None
    _usual_seconds: float | None = None

    def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        """Wait for an act of the driver, which by itself would wait for ever."""
        return super().wait(self._heard(gen), *args, **options)

    def _heard(self, gen: PQGen[T]) -> PQGen[T]:
        """Take the same steps, with at most `answer_seconds` of silence between them."""
        heard = time.monotonic()
        try:
            wants = next(gen)
            while True:
                ready = yield wants
                now = time.monotonic()
                if ready:
                    heard = now
                elif now - heard > self.answer_seconds:
                    raise self.silent()
                wants = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result

    def take_long(self, seconds: float) -> None:
        """Allow silences of this length until the connection rests."""
        if self._usual_seconds is None:
            self._usual_seconds = self.answer_seconds
        self.answer_seconds = seconds

    def rest(self) -> None:
        """Begin a rest, unless one is under way: a kept connection rests already when it is given back."""
        if self._usual_seconds is not None:
            self.answer_seconds, self._usual_seconds = self._usual_seconds, None
        if self.rests_since is None:
            self.rests_since = time.monotonic()

    def is_well(self) -> bool:
        """Whether it can be asked again after a rest, which ends here."""
        if has_ended(self) or self._is_silent():
            return False
        self.rests_since = None
        return True

    def _is_silent(self) -> bool:
        """Whether it no longer answers; tested after a rest, and only where a statement may take long to show it."""
        patience = self.answer_seconds
        if patience <= MOST_SECONDS or self.rests_since is None or time.monotonic() - self.rests_since < 1:
            return False
        self.answer_seconds, self.autocommit = LOCK_SECONDS, True
        try:
            self.execute("SELECT 1")
        except psycopg.Error:
            return True
        self.answer_seconds, self.autocommit = patience, False
        return False

    def silent(self) -> psycopg.OperationalError:
        """Close the connection without a wait; returns the error to raise."""
        self.close()
        return psycopg.OperationalError(f"it said nothing for {self.answer_seconds:g} s")


def connect(url: str, answer: float, args: Sequence[str], options: Options) -> Session:
    """Begin a session; raises the driver's errors, and DatabaseRefuses for a database that cannot hold every text."""
    driver = Session.connect(*args, **options)
    driver.answer_seconds = answer
    try:
        encoding = driver.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise DatabaseRefuses(url=url, reason=f"its encoding is {encoding}, not UTF8", advice=ENCODING)
        # Each by itself, as there is no transaction yet which could be rolled back with it.
        driver.autocommit = True
        driver.execute(_FIX)
        *_, lock = driver.execute(_MEND).fetchone() or (0,)
        _bound(driver, lock)
        driver.autocommit = False
    except BaseException:
        driver.close()
        raise
    return driver


def _bound(driver: Session, lock: float) -> None:
    """Cut a too long wait for a lock, and wait longer than that for an answer: the wait is no silence."""
    if not 0 < lock <= MOST_SECONDS - 1:
        lock = MOST_SECONDS - 1
        driver.execute(f"SET lock_timeout = {int(lock * 1000)}")
    driver.answer_seconds = max(driver.answer_seconds, lock + 1)


ENCODING = "Create one with `createdb -E UTF8 -T template0`, and set BATCHQ_DATABASE_URL to it."
