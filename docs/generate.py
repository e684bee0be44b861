"""Write the parts of these pages that come from the code: `python docs/generate.py`.

A part stands between `<!-- NAME -->` and `<!-- /NAME -->`, and everything around it is written by hand. A test compares
the parts with the code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from inspect import cleandoc
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import click

from batchq import crash, views
from batchq.cli import cli, graph
from batchq.config import Settings
from batchq.core.conditions import Node
from batchq.core.states import MET_BY, MOVES, RUN_MOVES, SYNONYMS, Outcome, RunState, State
from batchq.spec import load

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
COMMAND = "python docs/generate.py"
PART = re.compile(r"<!-- (?P<name>[\w ]+) -->\n(?P<text>.*?)<!-- /(?P=name) -->", re.DOTALL)
# The version of JSON Schema.
DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Said once, above all commands.
EVERYWHERE = {"--help", "--version"}


# --- pictures -----------------------------------------------------------------------------------------------


def states() -> str:
    """How a task moves."""
    return _diagram("waiting", [(one, other) for one in State for other in State if other in MOVES[one]])


def run_states() -> str:
    """How a run moves."""
    return _diagram("storing", [(one, other) for one in RunState for other in RunState if other in RUN_MOVES[one]])


def _diagram(first: str, moves: list[tuple[Any, Any]]) -> str:
    lines = [f"    {before} --> {after}" for before, after in [("[*]", first), *moves]]
    return _block("mermaid", ["stateDiagram-v2", *lines])


def job_1() -> str:
    """The graph of JOB 1, as `batchq job graph -o mermaid` draws it."""
    job = load(EXAMPLES / "job1.yaml").jobs["JOB 1"]
    nodes = {task.name: Node(task.after, task.join) for task in job.tasks}
    return _block("mermaid", list(graph.FORMATS["mermaid"](nodes)))


# --- tables -------------------------------------------------------------------------------------------------


def outcomes() -> str:
    """What a condition may ask for, which ends meet it, and the other words that are taken for it."""
    rows = []
    for outcome in Outcome:
        others = (word for word, meant in SYNONYMS.items() if meant is outcome and word != outcome)
        rows.append((_code(outcome), _listed(state for state in State if state in MET_BY[outcome]), _listed(others)))
    return _table(("outcome", "met by", "also read as it"), rows)


def crash_points() -> str:
    """Where a process may be made to end, and how far things have come there."""
    return _table(("point", "how far things have come"), [(_code(name), said) for name, said in crash.POINTS.items()])


def settings() -> str:
    """Every setting with its default and what it may be."""
    rows = [
        (_code(name), "" if field.default in (None, "") else _code(field.default), _allowed(field), field.description)
        for name, field in Settings.model_fields.items()
    ]
    return _table(("setting", "default", "may be", "what it is"), rows)


def _allowed(field: Any) -> str:
    if get_origin(field.annotation) is Literal:
        return _listed(get_args(field.annotation))
    if field.annotation is bool:
        return _listed((True, False))
    words = {"gt": "more than", "ge": "at least", "le": "at most"}
    bounds = ((key, getattr(bound, key, None)) for key in words for bound in field.metadata)
    return ", ".join(f"{words[key]} {bound:,}" for key, bound in bounds if bound is not None)


# --- the command line ---------------------------------------------------------------------------------------


def commands() -> str:
    """Every command in one line, with a link to its section."""
    rows = [
        (f"[{_code(_said(context))}](#{_said(context).replace(' ', '-')})", context.command.get_short_help_str(500))
        for context in _all()
        if not isinstance(context.command, click.Group)
    ]
    return _table(("command", "does"), rows)


def command_help() -> str:
    """Every command with its usage, its help and its options."""
    return "\n".join(line for context in _all() for line in _section(context)) + "\n"


def _all(context: click.Context | None = None) -> Iterator[click.Context]:
    context = context or click.Context(cli, info_name="batchq")
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            inner = context.command.get_command(context, name)
            assert inner is not None
            yield from _all(click.Context(inner, info_name=name, parent=context))


def _said(context: click.Context) -> str:
    """The command as it is typed."""
    return " ".join([_said(context.parent), str(context.info_name)] if context.parent else [str(context.info_name)])


def _section(context: click.Context) -> Iterator[str]:
    usage = " ".join([_said(context), *context.command.collect_usage_pieces(context)])
    yield f"{'##' if isinstance(context.command, click.Group) else '###'} {_said(context)}\n"
    yield _block("text", [usage])
    for paragraph in cleandoc(context.command.help or "").split("\n\n"):
        raw = paragraph.startswith("\b\n")
        yield _block("text", paragraph.splitlines()[1:]) if raw else f"{_plain(paragraph)}\n"
    rows = [(_code(said), does) for said, does in _options(context)]
    if rows:
        yield _table(("option", "does"), rows)


def _options(context: click.Context) -> Iterator[tuple[str, str]]:
    for option in context.command.get_params(context):
        record = option.get_help_record(context) if isinstance(option, click.Option) else None
        if record is not None and not EVERYWHERE & set(option.opts):
            yield record


# --- JSON ---------------------------------------------------------------------------------------------------

KINDS = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def view_schema() -> str:
    """The JSON schema of all views, with a line for each key."""
    names = (name for name in views.__all__ if is_typeddict(getattr(views, name)))
    definitions = {name: _definition(getattr(views, name)) for name in names}
    lines = ["{", f'  "$schema": "{DIALECT}",', '  "$defs": {']
    for name, definition in definitions.items():
        properties = definition.pop("properties")
        lines += [f"    {json.dumps(name)}: {{"]
        lines += [f"      {json.dumps(key)}: {json.dumps(value)}," for key, value in definition.items()]
        lines += ['      "properties": {']
        keys = [f"        {json.dumps(key)}: {json.dumps(value)}" for key, value in properties.items()]
        lines += [*(f"{key}," for key in keys[:-1]), keys[-1]]
        lines += ["      }", "    }" if name == [*definitions][-1] else "    },"]
    return _block("json", [*lines, "  }", "}"])


def _definition(view: Any) -> dict[str, Any]:
    """The schema of one view; later versions may add keys, so others are allowed."""
    hints = get_type_hints(view)
    return {
        "description": cleandoc(view.__doc__).splitlines()[0],
        "type": "object",
        "required": [name for name in hints if name in view.__required_keys__],
        "properties": {name: _schema(hint) for name, hint in hints.items()},
    }


def _schema(hint: Any) -> dict[str, Any]:
    """The schema of a value of this type; a value that may be anything has an empty one."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if origin is list:
        return {"type": "array", "items": _schema(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1])}
    if origin is UnionType:
        each = [_schema(one) for one in inner]
        plain = all(one.keys() == {"type"} for one in each)
        return {"type": [one["type"] for one in each]} if plain else {"anyOf": each}
    return {"type": KINDS[hint]} if hint in KINDS else {}


# --- Markdown -----------------------------------------------------------------------------------------------


def _block(language: str, lines: list[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```", ""])


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", r"\|")


def _code(value: object) -> str:
    return f"`{value}`"


def _listed(values: Any) -> str:
    return ", ".join(map(_code, values))


def _plain(text: str) -> str:
    return re.sub(r"([*_<])", r"\\\1", text)


# --- pages --------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], str]] = {
    "states": states,
    "run states": run_states,
    "job 1": job_1,
    "outcomes": outcomes,
    "crash points": crash_points,
    "settings": settings,
    "commands": commands,
    "command help": command_help,
    "view schema": view_schema,
}


def written(page: str) -> str:
    """The page with its generated parts as the code has them now."""

    def part(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- {name} -->\n{PARTS[name]()}<!-- /{name} -->" if name in PARTS else found[0]

    return PART.sub(part, page)


def main() -> None:
    """Rewrite every page whose parts have changed, and name it."""
    for path in sorted(HERE.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        if (after := written(before)) != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path.name} is written.")


if __name__ == "__main__":
    main()
