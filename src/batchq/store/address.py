"""The database's URL: read, or refused with advice before anything connects."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from batchq.config import masked
from batchq.errors import InvalidInput
from batchq.store.sql.dialect import DIALECTS

# Not a part of it is told: it may be one of the password.
MANGLED = "The database URL cannot be read. In its password, write @ as %40, / as %2F and : as %3A."


def parse(url: str) -> URL:
    """The URL of a database that batchq can work on; raises InvalidInput."""
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        said = str(error).replace(url, masked(url)).strip().splitlines()[0].rstrip(".")
        raise InvalidInput(
            f"The database URL {masked(url)} cannot be used ({said}). "
            "Use sqlite:///path/to/file.db or postgresql+psycopg://user@host/name."
        ) from None
    except ValueError:  # a port that is no number
        raise InvalidInput(MANGLED) from None
    if "@" in (parsed.host or ""):
        raise InvalidInput(MANGLED)
    dialect = DIALECTS.get(parsed.get_backend_name())
    if dialect is None:
        raise InvalidInput(
            f"The database {masked(url)} is neither SQLite nor PostgreSQL, the two that batchq works on."
        )
    dialect.check_driver(masked(url))
    return parsed
