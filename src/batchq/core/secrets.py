"""Secret arguments: how a row tells them from the others, and how they are kept out of what people read."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from urllib.parse import quote

from batchq.core.json import JSON

MASK = "***"
# Shorter texts are hidden as arguments, but not in a log: they would black out half of it.
LEAST_CHARS = 4


def packed(kwargs: Mapping[str, JSON], secret: Collection[str]) -> str:
    """Keyword arguments as a row keeps them: JSON; where some are secret, a list of the open and the secret ones."""
    if not secret:
        return json.dumps(kwargs)
    parts = ({name: value for name, value in kwargs.items() if (name in secret) is hidden} for hidden in (False, True))
    return json.dumps(list(parts))


def unpacked(text: str) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """The open and the secret keyword arguments of a row."""
    kept = json.loads(text)
    return (kept, {}) if isinstance(kept, dict) else (kept[0], kept[1])


def masked(text: str) -> dict[str, JSON]:
    """The keyword arguments of a row as people may see them."""
    shown, secret = unpacked(text)
    return shown | dict.fromkeys(secret, MASK)


def masked_definition(job: Mapping[str, JSON]) -> dict[str, JSON]:
    """A job's definition as people may see it."""
    return {**job, "tasks": [_masked_task(task) if "secret" in task else task for task in job["tasks"]]}


def _masked_task(task: Mapping[str, JSON]) -> dict[str, JSON]:
    return {**task, "kwargs": {**task["kwargs"], **dict.fromkeys(task["secret"], MASK)}}


class Veil:
    """Hides the values of secret arguments, in every form that they may take in a text."""

    def __init__(self, secret: Mapping[str, JSON]) -> None:
        texts = {form for value in _leaves(secret) for form in _forms(value) if len(form) >= LEAST_CHARS}
        self._texts = sorted(texts, key=len, reverse=True)

    @classmethod
    def over(cls, veils: Iterable[Veil]) -> Veil:
        """A veil that hides the secrets of all of these."""
        joined = cls({})
        joined._texts = sorted({text for veil in veils for text in veil._texts}, key=len, reverse=True)
        return joined

    def hide(self, text: str) -> str:
        """The text with *** for every secret; secrets that overlap are hidden as one."""
        parts: list[str] = []
        done = 0
        for start, end in self._spans(text):
            parts += (text[done:start], MASK)
            done = end
        return "".join((*parts, text[done:])) if done else text

    def settled(self, text: str) -> int:
        """How much of the text may be hidden and shown before the next piece of it is known.

        A secret that only begins in the rest would be shown in two parts.
        """
        end = len(text) - max((_begun(text, secret) for secret in self._texts), default=0)
        for start, over in reversed(self._spans(text)):
            if start < end < over:
                end = start
        return end

    def hide_in(self, value: JSON) -> JSON:
        """A JSON value with *** for every secret in its texts, and for numbers that are one."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {self.hide_in(key): self.hide_in(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide_in(inner) for inner in value]
        return MASK if str(value) in self._texts else value

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where secrets lie in the text, from its start to its end; those that overlap are one."""
        spans: list[tuple[int, int]] = []
        for start, end in sorted(self._found(text)):
            if spans and start < spans[-1][1]:
                spans[-1] = spans[-1][0], max(end, spans[-1][1])
            else:
                spans.append((start, end))
        return spans

    def _found(self, text: str) -> Iterator[tuple[int, int]]:
        for secret in self._texts:
            at = text.find(secret)
            while at >= 0:
                yield at, at + len(secret)
                at = text.find(secret, at + len(secret))


def _begun(text: str, secret: str) -> int:
    """How many characters of the secret the text ends with, short of the whole secret."""
    end = text[-(len(secret) - 1) :]
    at = end.find(secret[0])
    while at >= 0 and not secret.startswith(end[at:]):
        at = end.find(secret[0], at + 1)
    return len(end) - at if at >= 0 else 0


def _leaves(value: object) -> Iterator[str]:
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
