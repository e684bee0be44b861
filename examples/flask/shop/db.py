"""The shop's database: one connection for each app context, closed at its end."""

import sqlite3

from flask import Flask, current_app, g


def get_db() -> sqlite3.Connection:
    """The connection of this request, or of this operation."""
    if "db" not in g:
        g.db = sqlite3.connect(current_app.config["DATABASE"])
        g.db.execute("CREATE TABLE IF NOT EXISTS sale (day TEXT, amount INTEGER, invoiced INTEGER DEFAULT 0)")
    return g.db


def close_db(_: BaseException | None = None) -> None:
    """Close the connection, if there is one."""
    if (connection := g.pop("db", None)) is not None:
        connection.close()


def init_app(app: Flask) -> None:
    """Have the app close its connections."""
    app.teardown_appcontext(close_db)
