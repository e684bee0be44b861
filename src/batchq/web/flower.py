"""Flower for a Celery app with batchq, in this process: Celery's own pages, with defaults for batch work."""

from __future__ import annotations

import logging
import signal
from ipaddress import ip_address

from flower import command
from flower.app import Flower
from flower.options import options
from flower.urls import settings
from tornado.options import Error

from batchq.app import BatchQ
from batchq.errors import Conflict, InvalidInput, NoBroker
from batchq.server.logs import dress
from batchq.web.door import Door

logger = logging.getLogger(__name__)

# Flower's FLOWER_* variables and its flowerconfig.py count more than these.
DEFAULTS: dict[str, object] = {
    "address": "127.0.0.1",
    # A name says which task of which job it is; run and attempt stand in the arguments.
    "tasks_columns": "name,args,state,worker,received,started,runtime,uuid",
    # In seconds. The name of every coordinator is new: those that are gone must not pile up.
    "purge_offline_workers": 24 * 3600,
}


def dashboard(batch: BatchQ, *, address: str | None = None, port: int | None = None) -> int:
    """Serve Flower until SIGTERM or SIGINT; returns the exit code. A `port` of 0 takes a free one.

    Without `address` and `port` Flower's own settings decide, else 127.0.0.1 and 5555. Raises InvalidInput
    for an address beyond this machine without a login, Conflict for one that cannot be listened on, NoBroker.
    """
    _configure(address, port)
    _refuse_open_door()
    if not batch.names_broker:
        raise NoBroker
    batch.lead_to_broker(writes=True)
    command.extract_settings()
    command.setup_logging()
    dress(batch.settings.log_format)
    # Behind a socket file is a proxy: no browser comes there by itself, and the proxy knows its names.
    hosts = None if options.unix_socket else _names(batch.settings.web_hosts)
    flower = Door(hosts=hosts, capp=batch.app, options=options, **settings)
    logger.info("Flower listens on %s, for the broker %s", _listen(flower), batch.publisher.url)
    _serve(flower)
    return 0


def _names(hosts: str) -> list[str]:
    return [name.strip().lower().rstrip(".") for name in hosts.split(",") if name.strip()]


def _configure(address: str | None, port: int | None) -> None:
    for name, value in DEFAULTS.items():
        setattr(options, name, value)
    given = {"address": address, "port": port}
    argv = [f"--{name}={value}" for name, value in given.items() if value is not None]
    try:
        command.apply_env_options()
        command.apply_options("batchq", argv)
    except (Error, ValueError, FileNotFoundError) as error:
        raise InvalidInput(f"Flower's settings: {error}.") from error


def _refuse_open_door() -> None:
    if options.unix_socket or options.basic_auth or options.auth or _is_loopback(options.address):
        return
    raise InvalidInput(
        f"Flower on {options.address or 'all addresses'} would be open to other machines without a login. "
        "Set FLOWER_BASIC_AUTH=name:password, or listen on 127.0.0.1."
    )


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _listen(flower: Flower) -> str:
    try:
        port = flower.start_http_server()
    except OSError as error:
        where = options.unix_socket or f"{options.address}:{options.port}"
        reason = error.strerror or error
        raise Conflict(f"Flower cannot listen on {where} ({reason}). Choose another with --port.") from error
    if options.unix_socket:
        return str(options.unix_socket)
    scheme = "https" if flower.ssl_options else "http"
    host = f"[{options.address}]" if ":" in options.address else options.address or "0.0.0.0"  # noqa: S104 (shown)
    return f"{scheme}://{host}:{port}/{(options.url_prefix or '').strip('/')}"


def _serve(flower: Flower) -> None:
    loop = flower.io_loop.asyncio_loop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, flower.io_loop.stop)
    try:
        flower.start()
    finally:
        flower.stop()
