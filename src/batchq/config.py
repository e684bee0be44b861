"""All settings in one frozen value, read once: the app's `batchq_*` keys, over them `BATCHQ_*` of the environment."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import make_url
from tzlocal import get_localzone_name

from batchq.core.json import JSON
from batchq.core.priority import AGING
from batchq.core.windows import zone
from batchq.errors import InvalidInput

# RabbitMQ refuses a longer name, and so does every client of AMQP.
QUEUE_BYTES = 255
# The variable that says who acts.
USER = "BATCHQ_USER"
# As long as the columns that keep it.
USER_CHARACTERS = 200
# Keys of a URL's query whose values must not be shown.
SECRET_WORDS = re.compile("pass|secret|token|key", re.IGNORECASE)


class Settings(BaseSettings):
    """Everything that can be set, each with its default and with its unit in the name."""

    model_config = SettingsConfigDict(env_prefix="BATCHQ_", frozen=True, extra="ignore")

    app: str | None = Field(None, description="Celery app, as `celery -A` finds it; none = the demo app")
    home: Path = Field(Path(".batchq"), description="folder of the embedded database, logs and lock")
    database_url: str | None = Field(None, repr=False, description="SQLAlchemy URL; none = SQLite below `home`")
    broker_url: str | None = Field(
        None, repr=False, description="broker of the tickets; none = the app's, else embedded"
    )
    deployment: str = Field("default", pattern=r"^[A-Za-z0-9_-]{1,50}$", description="part of every queue's name")
    ticket_key: str = Field("", repr=False, description="secret that signs tickets; empty = unsigned")
    other_ticket_key: str = Field("", repr=False, description="a second one that is accepted, while keys change")
    remote_control: Literal["auto", "inspect", "all", "off"] = Field(
        "auto", description="what servers obey of Celery's remote control; auto = inspect with a `ticket_key`, else all"
    )
    allowed_operations: str = Field(
        "*", description="which of the app's tasks may be run: patterns, with commas between"
    )
    web_hosts: str = Field(
        "", description="names that Flower answers to besides localhost: patterns, with commas between"
    )
    allow_shell: bool = Field(False, description="whether shell.run may be used")
    timezone: str | None = Field(None, description="the user's time zone, IANA name; none = the machine's")
    max_pool: int = Field(200, gt=0, le=10_000, description="most processes, or threads, of a server's pool")
    fast_path: bool = Field(True, description="whether submit and finishing servers advance the work themselves")
    tickets_ahead: int = Field(0, ge=0, le=1000, description="tickets per open server beyond its free threads")
    priority_aging_seconds: float = Field(
        AGING, ge=0, description="time after which a task that waits rises by one priority; 0 = it never does"
    )
    tick_seconds: float = Field(1.0, gt=0, le=60, description="time between two ticks of a coordinator")
    heartbeat_seconds: float = Field(2.0, gt=0, le=60, description="time between two heartbeats of a server")
    lost_seconds: float = Field(30.0, gt=0, description="silence after which a server counts as lost")
    lost_attempt_seconds: float = Field(10.0, gt=0, description="after which an attempt its server lacks is lost")
    lost_ticket_seconds: float = Field(5.0, gt=0, description="after which an unclaimed ticket is sent again")
    ticket_patience_seconds: float = Field(1.0, ge=0, description="how long a ticket waits in a server for a thread")
    lost_child_seconds: float = Field(2.0, gt=0, description="how long a dead child's report is waited for")
    shutdown_seconds: float = Field(30.0, ge=0, description="how long a stopping server waits to store outcomes")
    log_format: Literal["text", "json"] = Field(
        "text", description="how servers, coordinators and Flower write their logs: text, or json with an object a line"
    )
    log_bytes: int = Field(65536, ge=0, description="most of an attempt's log that is kept, its end")
    result_bytes: int = Field(65536, ge=0, description="most a task's result may measure as JSON")
    file_bytes: int = Field(8 * 1024 * 1024, gt=0, description="largest job file")
    max_tasks: int = Field(100_000, gt=0, le=1_000_000, description="most tasks of a job")
    max_conditions: int = Field(1_000_000, gt=0, description="most conditions of a job")
    name_chars: int = Field(200, gt=0, le=200, description="longest name of a job, task, group or server")
    argument_bytes: int = Field(65536, gt=0, description="most a task's arguments may measure as JSON")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @classmethod
    def load(cls, conf: Mapping[str, object] | None = None, **given: object) -> Settings:
        """The settings from the environment, over `given`, over the `batchq_*` keys of `conf`.

        Raises InvalidInput with one line per wrong value.
        """
        named = {name: conf.get(f"batchq_{name}") for name in cls.model_fields} if conf is not None else {}
        values: dict[str, JSON] = {name: value for name, value in {**named, **given}.items() if value is not None}
        try:
            return cls(**values)
        except ValidationError as error:
            lines = (
                f"BATCHQ_{'.'.join(map(str, e['loc'])).upper()}: {e['msg'].removeprefix('Value error, ')}"
                for e in error.errors()
            )
            raise InvalidInput("Settings: " + "; ".join(lines)) from None

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return value and zone(value).key

    @property
    def database(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{(self.home / 'batchq.db').absolute()}"

    @property
    def obeys(self) -> str:
        """The part of Celery's remote control that servers obey: all, inspect, or off."""
        if self.remote_control != "auto":
            return self.remote_control
        return "inspect" if self.ticket_key else "all"

    def queue(self, group: str) -> str:
        """The Celery queue of a batch group; a name too long for RabbitMQ is cut, and ends in a hash of the whole."""
        name = f"batchq.{self.deployment}.{group}"
        if len(said := name.encode()) <= QUEUE_BYTES:
            return name
        seal = hashlib.sha256(said).hexdigest()
        # No name that was not cut has a slash here, so no other group's can be the same.
        start = f"batchq.{self.deployment}/{group}".encode()[: QUEUE_BYTES - 1 - len(seal)].decode(errors="ignore")
        return f"{start}/{seal}"

    @property
    def coordinator_queue(self) -> str:
        """The Celery queue that coordinators read; no batch group's name can be the same."""
        return f"batchq.{self.deployment}/coordinator"


def users_zone(name: str | None = None) -> str:
    """The IANA name of the user's time zone: `name` if they set it, else the machine's; raises InvalidInput."""
    try:
        found = name or get_localzone_name() or "UTC"
        return zone(found if found != "Etc/UTC" else "UTC").key
    except (ValueError, LookupError, OSError) as error:
        if name:
            raise InvalidInput(f"timezone: {error}") from None
        raise InvalidInput(
            "This machine's time zone has no IANA name: say which one is meant, in BATCHQ_TIMEZONE or beside the times."
        ) from None


def acting_user() -> str:
    """Name of the person who acts in this process: BATCHQ_USER, else user@host."""
    name = os.environ.get(USER, "").strip() or f"{_login()}@{platform.node()}"
    # A name of the environment may hold bytes that no database takes.
    return "".join(each if each.isprintable() else "?" for each in name[:USER_CHARACTERS])


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number without a name
        return str(os.getuid())


def masked(url: str) -> str:
    """The URL without its password, wherever that stands in it."""
    try:
        parsed = make_url(url)
        if "@" in (parsed.host or ""):  # the rest of a password in which it stands as it is
            return "<url>"
        hidden = {key: "***" for key in parsed.query if SECRET_WORDS.search(key)}
        return parsed.update_query_dict(hidden).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")
    except Exception:  # a URL that cannot be parsed may hold a password anywhere
        return "<url>"


def private_folder(path: Path) -> None:
    """Make the folder and the missing ones above it, each for this user alone, whatever the umask."""
    for each in (*reversed(path.parents), path):
        if not each.exists():
            each.mkdir(mode=0o700, exist_ok=True)
            each.chmod(0o700)


def private_file(path: Path) -> None:
    """Make an empty file for this user alone, unless it is there, and the folder that it is in."""
    private_folder(path.parent)
    if not path.exists():
        path.touch(mode=0o600)
        path.chmod(0o600)
