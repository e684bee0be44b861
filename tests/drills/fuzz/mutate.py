"""Inputs made from others by changes that keep most of their structure: in the tree, in the lines, in the bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from ruamel.yaml import YAML

from batchq.spec import TaskSpec, WindowSpec
from batchq.spec.yaml_text import WORDS

EXAMPLES = Path(__file__).parents[3] / "examples"
TICKET = '[[1, 7340034, 1, "5f0c6d1e-0000-4000-8000-000000000000", ""], {"group": "BG1"}, {}]'
TYPED = ("18:00-07:30=20 Europe/Oslo [mon-fri]", "00:00-00:00=0 UTC [2026-12-24]", "36.5", "2026-12-24")
KEYS = sorted(
    {
        *TaskSpec.model_fields,
        *WindowSpec.model_fields,
        "job",
        "jobs",
        "tasks",
        "servers",
        "groups",
        "windows",
        "handles",
    }
)
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**63) - 1, 2**64, 10**400, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "\udcff",
        "\u202e",
        "\u200b",
        "\ufeff",
        "\x1b[2J",
        "\u2028",
        "é",
        "発注",
        "a" * 300,
    ),
    *("../../etc/passwd", "'; DROP TABLE batchq_run; --", "$(id)", "`id`", "<script>alert(1)</script>", "%s%n", "{0}"),
    *("24:00", "02:30", "23:59:60", "08:00", "9999-12-31", "2026-02-29", "0001-01-01", "Europe/Oslo", "../localtime"),
    *("error", "ended_or_error", "mon", "mon-fri", "default", "NaN", ".nan", "1e999", "0x1F", "0o17", "~", "!!str x"),
    *([], {}, [[]], [{}], {"": None}, {"A": {"outcome": "error", "handles": True}}, [None] * 50),
)
PIECES = (
    *("!!python/object/apply:os.system", "&a ", "*a", "<<: ", "%YAML 1.1", "---", "...", "? ", "| ", "> ", "- ", ": "),
    *("[" * 70, "{" * 70, "- " * 70, "[[x]]", "a.b.c = ", "'''", '"""', "\\u0000", "\\ud800", "\\U00110000", "\t", "#"),
    *("1" * 5000, "1979-05-27T07:32:00", "inf", "nan", "0b1", "-0", "1_000", '"', "'", "}", "]", ",", *map(str, WORDS)),
)  # fmt: skip


def seeds() -> Iterator[tuple[str, bytes]]:
    """Good inputs of every kind."""
    for path in sorted(EXAMPLES.glob("*.*ml")):
        yield path.suffix[1:], path.read_bytes()
        if path.suffix == ".yaml":
            yield "json", json.dumps(YAML(typ="safe", pure=True).load(path), default=str).encode()
    yield "ticket", TICKET.encode()
    for text in TYPED:
        yield "words", text.encode()


def mutated(content: bytes, random: Random) -> bytes:
    """The content with one to four changes."""
    for _ in range(random.randint(1, 4)):
        content = random.choice(CHANGES)(content, random)
    return content


def _tree(content: bytes, random: Random) -> bytes:
    """One value somewhere in the tree becomes another; left as it is where there is no tree."""
    try:
        root = json.loads(content)
    except (ValueError, RecursionError):
        try:
            root = YAML(typ="safe", pure=True).load(content.decode()[:20_000])
        except Exception:  # whatever it is, it has no tree
            return _bytes(content, random)
    try:
        return json.dumps(_changed(root, random), default=str, ensure_ascii=random.random() < 0.8).encode(
            "utf-8", "surrogatepass"
        )
    except (ValueError, RecursionError, TypeError):
        return _bytes(content, random)


def _changed(value: Any, random: Random) -> Any:
    """The value with one change, more likely below than here."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        step = random.random()
        if step < 0.1:
            return {**value, random.choice((*KEYS, *map(str, STRANGE))): _any(random)}
        if step < 0.2:
            return {random.choice(KEYS) if each == key else each: inner for each, inner in value.items()}
        return {**value, key: _changed(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.85:
        place = random.randrange(len(value))
        if random.random() < 0.15:
            return [*value, *value]
        return [*value[:place], _changed(value[place], random), *value[place + 1 :]]
    return _any(random) if random.random() < 0.7 else [value]


def _any(random: Random) -> Any:
    return random.choice((*STRANGE, *KEYS))


def _lines(content: bytes, random: Random) -> bytes:
    """A line twice, elsewhere, gone or further in."""
    lines = content.split(b"\n")
    line = lines.pop(random.randrange(len(lines)))
    again = random.choice(([], [line], [line, line], [b"  " + line], [line[1:]]))
    place = random.randint(0, len(lines))
    return b"\n".join([*lines[:place], *again, *lines[place:]])


def _piece(content: bytes, random: Random) -> bytes:
    """A piece that means something to a reader, put in anywhere."""
    place = random.randint(0, len(content))
    piece = random.choice(PIECES).encode("utf-8", "surrogatepass")
    return content[:place] + piece + content[place + random.choice((0, 0, 1, len(piece))) :]


def _bytes(content: bytes, random: Random) -> bytes:
    """A byte changed, or a part cut out."""
    if not content:
        return bytes([random.randrange(256)])
    place = random.randrange(len(content))
    if random.random() < 0.5:
        return content[:place] + content[place + random.randint(1, 20) :]
    return content[:place] + bytes([random.randrange(256)]) + content[place + 1 :]


CHANGES: tuple[Callable[[bytes, Random], bytes], ...] = (_tree, _tree, _tree, _lines, _piece, _piece, _bytes)
