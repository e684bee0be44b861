"""A session of PostgreSQL: how it begins, what nobody's settings may change of it, and how long it may be silent."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import psycopg
from sqlalchemy.engine import URL

from batchq.errors import DatabaseRefuses
from batchq.store.database import WAYS

T = TypeVar("T")

# Nobody waits longer for a lock: a session that says nothing for longer counts as away.
LOCK_SECONDS = 5.0
# PostgreSQL ends a transaction whose process says nothing for so long: a stopped one holds its locks no longer.
SILENT_SECONDS = 10
# What a session works with whatever its role, its database, the environment or the URL says: it would store or read
# something else by another, or not what it had been told is stored.
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
# Only where it is otherwise: to say so may need a right, and what is more than `on` may stay.
_MEND = """
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                THEN set_config('synchronous_commit', 'on', false) END,
           CASE WHEN current_setting('session_replication_role') <> 'origin'
                THEN set_config('session_replication_role', 'origin', false) END,
           CASE WHEN current_setting('transaction_timeout', true) <> '0'
                THEN set_config('transaction_timeout', '0', false) END
"""


def settings(url: URL, patience: float, answer: float, name: str) -> dict[str, Any]:
    """How a session begins; what the URL, PGOPTIONS and PGAPPNAME say goes before."""
    values = {
        "lock_timeout": int(min(patience, LOCK_SECONDS) * 1000),
        "idle_in_transaction_session_timeout": SILENT_SECONDS * 1000,
        # A limit that a role has for its people would break off a large submit at each of its tries.
        "statement_timeout": 0,
        # Every statement that is run often has its index. So one plan does for good, also while a table that was
        # empty grows: another way that was chosen for few rows would be kept until the next ANALYZE. And only who
        # walks an index marks its dead entries, so that the next one need not look at them again.
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


def connect(url: str, answer: float, *args: Any, **options: Any) -> psycopg.Connection[Any]:
    """Begin a session; raises the driver's errors, and DatabaseRefuses for a database that cannot hold every text."""
    driver = psycopg.Connection.connect(*args, **options)
    try:
        encoding = driver.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise DatabaseRefuses(url=url, reason=f"its encoding is {encoding}, not UTF8", advice=ENCODING)
        # Each by itself, as there is no transaction yet which could be rolled back with it.
        driver.autocommit = True
        driver.execute(_FIX)
        driver.execute(_MEND)
        driver.autocommit = False
    except BaseException:
        driver.close()
        raise
    return driver


ENCODING = "Create one with `createdb -E UTF8 -T template0`, and set BATCHQ_DATABASE_URL to it."
