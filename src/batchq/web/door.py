"""The door of the dashboard: which hosts a browser may ask it under, and what its pages may do in the browser.

A stranger's page can give its own name this machine's address, and then read every answer from there. Only the name in
the request gives it away.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

from flower.app import Flower
from tornado.httputil import HTTPServerRequest
from tornado.template import Template
from tornado.web import RequestHandler

SCRIPT = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
STYLE = re.compile(r'\sstyle="([^"{]*)"')
HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not none at all: a browser would then keep silent about its own origin too, which Flower asks for.
    "Referrer-Policy": "same-origin",
}


class Connection(Protocol):
    """Tornado's connection to a browser, which takes the answer."""

    write_headers: Callable[..., object]


class Door(Flower):
    """Flower behind the door: it answers to known names only, and tells browsers what they may do with each answer.

    `hosts` are patterns of names that are known besides this machine's own; None stands for a proxy in front, which
    knows them.
    """

    def __init__(self, *, hosts: Sequence[str] | None, template_path: str, **options: object) -> None:
        super().__init__(template_path=template_path, **options)
        self._hosts = hosts
        self._headers = HEADERS | {"Content-Security-Policy": _policy(Path(template_path))}

    def start_request(self, server: object, connection: Connection) -> object:
        """Begin a request whose answer, whatever it is, gets our headers."""
        write = connection.write_headers

        def write_headers(start: object, headers: MutableMapping[str, str], *rest: object, **named: object) -> object:
            for name, value in self._headers.items():
                headers[name] = value
            return write(start, headers, *rest, **named)

        connection.write_headers = write_headers
        return super().start_request(server, connection)

    def find_handler(self, request: HTTPServerRequest, **named: object) -> object:
        """Find the handler: Flower's, or one that refuses a host name that is not allowed."""
        if self._hosts is None or _known(request.host_name, self._hosts, self.options.address):
            return super().find_handler(request, **named)
        return self.get_handler_delegate(request, Stranger)


class Stranger(RequestHandler):
    """Answers a request whose host name is not known here."""

    def prepare(self) -> None:
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish("Not known here under this name. BATCHQ_WEB_HOSTS lists the names that are.\n")


def _known(host: str, hosts: Sequence[str], address: str) -> bool:
    """Whether it is a loopback name, the address that is listened on, or one of the names that are set."""
    name = host.lower().rstrip(".").removeprefix("[").removesuffix("]")
    if any(fnmatchcase(name, pattern) for pattern in hosts):
        return True
    try:
        asked = ip_address(name)
    except ValueError:
        return name == "localhost"
    try:
        listens = ip_address(address or "0.0.0.0")  # noqa: S104 (what Flower takes it for)
    except ValueError:
        return asked.is_loopback
    # A page can give its name any address, but an address names itself: if all are listened on, each is good.
    return asked.is_loopback or asked == listens or listens.is_unspecified


def _policy(templates: Path) -> str:
    """The strictest policy under which Flower's pages work: its own files, and what stands in its own templates."""
    texts = [path.read_text() for path in sorted(templates.glob("*.html"))]
    scripts = [digest for text in texts for inline in SCRIPT.findall(text) for digest in _scripts(inline)]
    styles = [_digest(style.encode()) for text in texts for style in STYLE.findall(text)]
    rules = {
        "default-src": ["'none'"],
        "script-src": ["'self'", *scripts],
        "style-src": ["'self'", *(["'unsafe-hashes'", *styles] if styles else [])],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    return "; ".join(f"{name} {' '.join(dict.fromkeys(values))}" for name, values in rules.items())


def _scripts(inline: str) -> Iterator[str]:
    """The digests of a template's script in each form it can have: Flower puts only its refreshing there."""
    for refreshes in (0, 1):
        try:
            yield _digest(Template(inline, name="page.html").generate(autorefresh=refreshes))
        except Exception:  # a Flower that puts more there: that script does not run, and nothing else is lost
            return


def _digest(text: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
