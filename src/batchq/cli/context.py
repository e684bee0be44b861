"""What a command works on: the Celery app that it was given, and that app's database."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchq.cli.output import now_in, say
from batchq.errors import BatchqError, Broken, BrokerUnreachable, DatabaseOutdated, NoBroker, PlaceRefuses
from batchq.escape import LINES, printable

if TYPE_CHECKING:
    from batchq.app import BatchQ
    from batchq.config import Settings
    from batchq.spec import Limits
    from batchq.store.database import Database

APP = "batchq.app"
JOINED = "batchq.joined"
TIMED_OUT = 124
# More than an engine writes there.
LOCK_BYTES = 65536


class Failure(click.ClickException):
    """An error of ours on its way out: one line on stderr, and its own exit code."""

    def __init__(self, error: BatchqError) -> None:
        super().__init__(printable(str(error), LINES))
        self.exit_code = error.exit_code  # type: ignore[misc]


class Commands(click.Group):
    """The group of all commands: turns our errors into one line, and Ctrl-C into exit code 130."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The words that are left; refuses those that neither a database nor a terminal can take."""
        for word in args:
            if "\0" in word or (not _is_text(word) and not is_file(word)):
                raise click.UsageError(f"{word[:80]!r} holds what is no character; leave it out.", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BatchqError as error:
            raise Failure(error) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read has gone: click ends without a word
                raise
            raise Failure(of_system(error)) from error
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(130)
        except Exception as error:
            if "sqlalchemy" not in type(error).__module__:
                raise
            from batchq.store.failures import of_content, why

            if not of_content(error):
                raise
            raise Failure(Broken(reason=why(error))) from error


def of_system(error: OSError) -> BatchqError:
    """What the system refused; without a file's name it was what the command prints, as far as its own files go."""
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EBADF):
        _discard_output()
        return BatchqError(f"What this command prints cannot be written ({error.strerror}). Send it elsewhere.")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return BatchqError(f"This process may open no more files ({error.strerror}). Raise the limit: ulimit -n.")
    if error.filename is None and isinstance(error, FileNotFoundError):
        return PlaceRefuses(path="This folder", reason="it was deleted", advice="Change to a folder that is there.")
    return PlaceRefuses.of(error, "A file", "Let this user use it, or work in another folder.")


def _discard_output() -> None:
    """Let nothing more be written to stdout, at the interpreter's end neither."""
    with suppress(OSError, AttributeError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def is_file(word: str) -> bool:
    """Whether a file has this name, which may be none that a file could have."""
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


def _is_text(word: str) -> bool:
    """Whether all of it are characters; bytes of a command line that are no UTF-8 come as halves of surrogate pairs."""
    return word.isascii() or not any("\ud800" <= character <= "\udfff" for character in word)


def _keep_app(ctx: click.Context, param: click.Parameter, app: str | None) -> None:
    if app is not None:
        if not app.strip():
            raise click.BadParameter(
                "it is empty; name an app as module:attribute, or leave the option out.", ctx, param
            )
        ctx.meta[APP] = app


# Of the program itself, and of the commands that somebody types in a project of their own, where it may come last.
app_option = click.option(
    "-A",
    "--app",
    metavar="MODULE:APP",
    expose_value=False,
    callback=_keep_app,
    help="The Celery app whose jobs these are; without it BATCHQ_APP, else a demo app.",
)


def batch() -> BatchQ:
    """The BatchQ of the app at `--app`, of `celery -A …`, of BATCHQ_APP, or else the demo app."""
    meta = click.get_current_context().meta
    if JOINED not in meta:
        meta[JOINED] = _join(meta.get(APP))
        meta[JOINED].process = click.get_current_context().command_path
        meta[JOINED].announce = _say_where
        click.get_current_context().find_root().call_on_close(lambda: _close(meta[JOINED]))
    joined: BatchQ = meta[JOINED]
    return joined


def _close(joined: BatchQ) -> None:
    if "database" in vars(joined):  # one that was never asked for need not be made now
        joined.database.dispose()


def _say_where() -> None:
    """Say in one line which app and database are looked at, if nobody named an app; never beside JSON."""
    from batchq.config import masked

    if _is_named() or click.get_current_context().params.get("output") == "json":
        return
    joined = batch()
    which = "the demo app" if _of_celery() is None else f"Celery's app {joined.app.main or 'default'!r}"
    place = f"{which}, with the database {masked(joined.settings.database)}"
    say(f"No app is named: this is {place}. -A MODULE:APP or BATCHQ_APP names one.", err=True)


def _is_named() -> bool:
    meta = click.get_current_context().meta
    return bool(meta.get(APP) or os.environ.get("BATCHQ_APP") or _is_handed_over())


def path_of_app() -> str | None:
    """How a child process finds the same app: the text behind `-A`, here or of `celery -A`; None without one."""
    ctx = click.get_current_context()
    of_celery = ctx.find_root().params.get("app")
    return ctx.meta.get(APP) or (of_celery if isinstance(of_celery, str) else None)


def _of_celery() -> Any:
    """The app of Celery's own command; if nobody named it there, BATCHQ_APP comes first."""
    app = getattr(click.get_current_context().obj, "app", None)
    return app if _is_handed_over() or not os.environ.get("BATCHQ_APP") else None


def _is_handed_over() -> bool:
    """Whether Celery's own command was told which app it is."""
    ctx = click.get_current_context()
    return getattr(ctx.obj, "app", None) is not None and bool(ctx.find_root().params.get("app", True))


def _join(path: str | None) -> BatchQ:
    from batchq.app import BatchQ, find_app

    of_celery = _of_celery()
    joined = BatchQ(of_celery) if path is None and of_celery is not None else find_app(path)
    if not joined.names_broker:
        _find_broker(joined.settings.home)
    return joined


def _find_broker(home: Path) -> None:
    """Take the broker of the engine that another command runs in this folder, if one does."""
    try:
        with (home / "lock").open("rb") as lock:
            facts = json.loads(lock.read(LOCK_BYTES))
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        if isinstance(facts, dict) and isinstance(broker := facts.get("broker"), str):
            os.environ["CELERY_BROKER_URL"] = broker
    except (OSError, ValueError):
        return


def database() -> Database:
    """The app's database, with a schema that is up to date.

    Raises DatabaseOutdated for a database that somebody named; our own file is upgraded without a word.
    """
    from batchq.store import schema

    joined = batch()
    try:
        schema.check(joined.database)
    except DatabaseOutdated:
        if joined.settings.database_url is not None:
            raise
        schema.upgrade(joined.database)
    return joined.database


def names_app() -> bool:
    """Whether somebody said which app it is, so that our demo app is not the one meant."""
    ctx = click.get_current_context()
    return bool(ctx.meta.get(APP) or os.environ.get("BATCHQ_APP") or getattr(ctx.obj, "app", None))


def timezone() -> str | None:
    """The zone that the user has set, if they did."""
    return batch().settings.timezone


def users_now() -> datetime:
    """What the clock shows where the user is."""
    return now_in(timezone())


def limits(settings: Settings) -> Limits:
    """The most that a job file may hold, by the settings."""
    from batchq.spec import Limits

    return Limits(
        file_bytes=settings.file_bytes,
        tasks=settings.max_tasks,
        conditions=settings.max_conditions,
        name_chars=settings.name_chars,
        argument_bytes=settings.argument_bytes,
        timezone=settings.timezone,
    )


def forward() -> None:
    """Hand out at once what a change has freed; where that cannot be, a coordinator's tick does it."""
    if not batch().settings.fast_path:
        return
    with suppress(BrokerUnreachable, NoBroker):
        batch().check_broker()
        batch().forward()
