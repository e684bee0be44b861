"""The schema of docs/views.md is that of what the commands print."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest

from support import book

PAGE = "docs/views.md"
SCHEMA = json.loads(book.block(PAGE, "view schema"))["$defs"]
KINDS = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
    "array": list, "object": dict,
}  # fmt: skip


def faults(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """Where a value is not as the schema has it; a view has no keys beyond those of its schema."""
    if "$ref" in schema:
        return faults(value, SCHEMA[schema["$ref"].removeprefix("#/$defs/")], at)
    if "anyOf" in schema:
        each = [faults(value, one, at) for one in schema["anyOf"]]
        return [] if [] in each else min(each, key=len)
    kinds = schema.get("type", list(KINDS))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(isinstance(value, KINDS[kind]) and (type(value) is not bool or kind == "boolean") for kind in kinds):
        return [f"{at} is {value!r}, not {kinds}"]
    if isinstance(value, list):
        return [fault for n, one in enumerate(value) for fault in faults(one, schema.get("items", {}), f"{at}[{n}]")]
    if not isinstance(value, dict):
        return []
    known, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
    found = [f"{at} lacks {name}" for name in schema.get("required", ()) if name not in value]
    if known:
        found += [f"{at} has {name}, which no schema tells" for name in value.keys() - known.keys()]
    return found + [
        fault for name, one in value.items() for fault in faults(one, known.get(name, rest), f"{at}.{name}")
    ]


def printed() -> list[tuple[str, str]]:
    """Each command of the page that shows something, and what it prints."""
    rows = book.rows(book.part(PAGE, "views"))
    return [(words, row[1]) for row in rows for words in re.findall(r"`batchq ([^`]+)`", row[0])]


def filled(said: str) -> list[str]:
    """The words of a command with names in it."""
    noun = said.split()[0]
    name = {"job": "JOB 1", "runs": "JOB 1", "server": "Batch1"}.get(noun, "")
    given = {"RUN": "1", "TASK": "TASK 5" if "abort" in said else "TASK 2", "NAME": name}
    return [given.get(word, word) for word in shlex.split(said)]


@pytest.mark.parametrize(("said", "shown"), [row for row in printed() if "FILE" not in row[0]])
def test_what_a_command_prints_fits_its_schema(said: str, shown: str, batchq, batchq_json, stage):
    stage.server("Batch1")
    batchq("server", "window", "add", "Batch1", "00:00-00:00=3")
    stage.submit()
    stage.start("Batch1")
    stage.end("TASK 1", log="one line\n", result="[1]")
    stage.start("Batch1")
    stage.end("TASK 2", "ValueError: no")
    assert stage.start("Batch1") == ["TASK 5"]
    (view,) = re.findall(r"`(\w+)`", shown)
    schema = {"$ref": f"#/$defs/{view}"}

    batchq("group", "pause", "default")
    batchq("limit", "set", "erp-licence", "1")
    value = batchq_json(*filled(said))

    assert value
    assert faults(value, {"type": "array", "items": schema} if "list" in shown else schema) == []


def test_every_view_that_is_named_has_a_schema_and_every_schema_is_used():
    named = {view for _, shown in printed() for view in re.findall(r"`(\w+)`", shown)}
    inner = set(re.findall(r"#/\$defs/(\w+)", json.dumps(SCHEMA)))
    assert named | inner <= SCHEMA.keys()
    assert SCHEMA.keys() - named - inner == {"ExecutingView"}  # in Python alone


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"at": "now", "threads": 1}, "$ lacks timezone"),
        ({"at": "now", "threads": True, "timezone": "UTC"}, "$.threads is True, not ['integer']"),
        ({"at": None, "threads": 1, "timezone": "UTC"}, "$.at is None, not ['string']"),
        ({"at": "now", "threads": 1, "timezone": "UTC", "more": 1}, "$ has more, which no schema tells"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_found(value: dict[str, Any], fault: str):
    assert faults(value, {"$ref": "#/$defs/NextChange"}) == [fault]
