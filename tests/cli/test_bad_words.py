"""Whatever is typed where a command takes a word: an exit code of its own and a sentence, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from batchq.cli import cli
from batchq.server.options import UNFIT
from cli.test_help import named

NUMBERS = ("nan", "NaN", "inf", "-inf", "-1", "-0.5", "1e999", "9" * 40, "0x10", "", " ")
NAMES = ("", " ", "a\0b", "a\nb", "\udcff", "\ud800x", "\u202egnp", "\u200b", "x" * 201, "x" * 100_000)
UNKNOWN = (
    "nobody",
    "-",
    "0",
    "-1",
    "9" * 40,
    "../../etc/passwd",
    "'; DROP TABLE batchq_run; --",
    "$(id)",
    "<b>x</b>",
    "%s%n",
    "--",
    "🚚",
)
# What these begin when nothing is wrong does not end by itself.
STAY = {"dev", "run", "coordinator", "web", "server start"}
GOOD = {
    "file": "good.yaml",
    "files": "good.yaml",
    "run": "last",
    "task": "TASK 1",
    "name": "AOS1",
    "names": "BG1",
    "job": "JOB 1",
    "text": "18:00-07:30=20 UTC",
    "which": "1",
    "priority": "high",
    "units": "4",
}


def leaves() -> Iterator[tuple[str, click.Command]]:
    return ((name, command) for name, command in named(cli) if name and not isinstance(command, click.Group))


def words(name: str, command: click.Command, chosen: click.Parameter, word: str) -> list[str]:
    """The command line with the word where the parameter's value stands, and good ones elsewhere."""
    line = name.split()
    arguments = []
    for param in command.params:
        if isinstance(param, click.Argument):
            if param is chosen:
                arguments.append(word)
            elif param.required or _before(command, param, chosen):
                arguments.append(_good(name, param))
        elif param is chosen:
            line += [f"{param.opts[-1]}={word}"]
        elif param.required:
            line += [f"{param.opts[-1]}={_good(name, param)}"]
    return [*line, "--", *arguments]


def _before(command: click.Command, param: click.Parameter, chosen: click.Parameter) -> bool:
    return isinstance(chosen, click.Argument) and command.params.index(param) < command.params.index(chosen)


def _good(name: str, param: click.Parameter) -> str:
    return "BG1" if name.startswith("group") and param.name == "name" else GOOD[param.name or ""]


def valued(command: click.Command) -> Iterator[click.Parameter]:
    for param in command.params:
        warned = isinstance(param, click.Option) and param.hidden and not UNFIT[param.name or ""].refused
        # Any word is good where it is only said that it does not hold.
        if not (warned or (isinstance(param, click.Option) and (param.is_flag or param.name == "help"))):
            yield param


def bad(name: str, param: click.Parameter) -> Iterator[str]:
    """What cannot be good there."""
    if isinstance(param.type, click.Choice):
        yield from ("", "\0", "\udcff", "yaml ")
        return
    yield from NUMBERS if _counts(param) else NAMES
    if not _counts(param) and name not in STAY:
        yield from UNKNOWN


def _counts(param: click.Parameter) -> bool:
    return isinstance(param.type, click.types.IntRange | click.types.FloatRange) or param.name in ("timeout", "hours")


CASES = [
    pytest.param(name, command, param, id=f"{name} {param.human_readable_name}")
    for name, command in leaves()
    for param in valued(command)
]


@pytest.fixture
def stored(batchq, stage, tmp_path: Path):
    """A job that was submitted, a server and a group that exist, and a good file."""
    stage.server("AOS1", runs=False)
    stage.submit()
    (tmp_path / "good.yaml").write_text("job: GOOD\ntasks: {A: {run: demo.work, group: BG1}}\n")
    batchq("submit", "good.yaml")
    return batchq


@pytest.mark.parametrize(("name", "command", "param"), CASES)
def test_no_word_makes_a_command_fail_in_another_way_than_by_a_sentence(name, command, param, stored, tmp_path):
    from click.testing import CliRunner

    for word in bad(name, param):
        line = words(name, command, param, word)
        result = CliRunner().invoke(cli, line)
        said = f"{line}: exit {result.exit_code}: {result.output[-500:]}"
        assert result.exception is None or isinstance(result.exception, SystemExit), (line, result.exc_info)
        assert result.exit_code in (0, 1, 2, 3, 5), said
        assert "Traceback" not in result.output, said
        if name in STAY:
            assert result.exit_code in (2, 3, 4), said
