"""Secret arguments: how a row tells them from the others, and how they are kept out of what people read."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote

MASK = "***"
# Shorter texts are hidden as arguments, but not in a log: they would black out half of it.
LEAST_CHARS = 4


def packed(kwargs: Mapping[str, Any], secret: Collection[str]) -> str:
    """Keyword arguments as a row keeps them: JSON; where some are secret, a list of the open and the secret ones."""
    if not secret:
        return json.dumps(kwargs)
    parts = ({name: value for name, value in kwargs.items() if (name in secret) is hidden} for hidden in (False, True))
    return json.dumps(list(parts))


def unpacked(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The open and the secret keyword arguments of a row."""
    kept = json.loads(text)
    return (kept, {}) if isinstance(kept, dict) else (kept[0], kept[1])


def masked(text: str) -> dict[str, Any]:
    """The keyword arguments of a row as people may see them."""
    shown, secret = unpacked(text)
    return shown | dict.fromkeys(secret, MASK)


def masked_definition(job: Mapping[str, Any]) -> dict[str, Any]:
    """A job's definition as people may see it."""
    return {**job, "tasks": [_masked_task(task) if "secret" in task else task for task in job["tasks"]]}


def _masked_task(task: Mapping[str, Any]) -> dict[str, Any]:
    return {**task, "kwargs": {**task["kwargs"], **dict.fromkeys(task["secret"], MASK)}}


class Veil:
    """Hides the values of secret arguments, in every form that they may take in a text."""

    def __init__(self, secret: Mapping[str, Any]) -> None:
        texts = {form for value in _leaves(secret) for form in _forms(value) if len(form) >= LEAST_CHARS}
        self._texts = sorted(texts, key=len, reverse=True)

    def hide(self, text: str) -> str:
        """The text with *** for every secret."""
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text

    def hide_in(self, value: Any) -> Any:
        """A JSON value with *** for every secret in its texts, and for numbers that are one."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {self.hide_in(key): self.hide_in(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide_in(inner) for inner in value]
        return MASK if str(value) in self._texts else value


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _forms(text: str) -> Iterator[str]:
    """A text as it is, each of its lines, and as a repr, JSON and a URL write it."""
    for part in (text, *text.splitlines()):
        yield from (part, repr(part)[1:-1], json.dumps(part)[1:-1], quote(part, safe=""))
