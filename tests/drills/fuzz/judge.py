"""What holds of every input: it is taken and survives being written down, or it is refused in a sentence, in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace

import click

from batchq.cli.context import JOINED
from batchq.cli.fields import parse_hours, parse_instant, parse_window
from batchq.cli.plan import parse_duration
from batchq.config import Settings
from batchq.core.windows import parse_date
from batchq.errors import InvalidInput
from batchq.server import tickets
from batchq.spec import Document, loads

SECONDS = 2.0
MOST_SAID = 20_000
SETTINGS = Settings(ticket_key="key", timezone="Europe/Oslo")


@dataclass(frozen=True)
class Message:
    """What a broker hands over."""

    body: bytes
    content_type: str = "application/json"


def _file(format: str) -> Callable[[bytes], None]:
    def judge(content: bytes) -> None:
        try:
            document = loads(content, format=format)
        except InvalidInput as refused:
            said = str(refused)
            assert 0 < len(said) < MOST_SAID, len(said)
            assert all(line.isprintable() and line.endswith(".") for line in said.split("\n")), said
            return
        assert Document.model_validate_json(document.model_dump_json()) == document
        assert Document.model_validate_json(document.model_dump_json(exclude_defaults=True)) == document

    return judge


def _ticket(content: bytes) -> None:
    """Nobody signed it, so none is taken; with no key, what is taken is fit for a database."""
    assert tickets.read(Message(content), SETTINGS) is None
    offer = tickets.read(Message(content), Settings(ticket_key=""))
    if offer is not None:
        assert 0 <= offer.task < 2**63
        assert offer.group.isprintable()
        assert offer.token.isascii()


def _words(content: bytes) -> None:
    """What is typed on a command line; arguments that are no UTF-8 arrive with lone surrogates."""
    text = content.decode("utf-8", "surrogateescape")
    with click.Context(click.Command("fuzz")) as context:
        context.meta[JOINED] = SimpleNamespace(settings=SETTINGS)
        for parse in (parse_window, parse_hours, parse_date, parse_instant, parse_duration):
            with suppress(ValueError):
                said = parse(text)
                assert parse is not parse_window or parse_window(str(said)) == said


KINDS: dict[str, Callable[[bytes], None]] = {
    "yaml": _file("yaml"),
    "json": _file("json"),
    "toml": _file("toml"),
    "ticket": _ticket,
    "words": _words,
}


def judge(kind: str, content: bytes) -> None:
    """Fail unless the rule of this kind of input holds of the content, within 2 s of the processor."""
    began = time.process_time()
    KINDS[kind](content)
    assert (took := time.process_time() - began) < SECONDS, f"it took {took:.1f} s"
