"""The documentation as tests read it: README.md, CONTRIBUTING.md, the pages in docs/, and the blocks in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"# ([\w.-]+\.\w+)\n")
CELL = re.compile(r"(?<!\\)\|")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: the page and line where it begins, its language, and what is in it."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, if its first line is a comment that says so."""
        named = NAMED.match(self.text)
        return named[1] if named else None

    @property
    def commands(self) -> list[str]:
        """The commands of a block of the shell, one a line."""
        return self.text.splitlines()


def pages() -> list[str]:
    """The names of all pages, as paths from the project's folder."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found if path.exists()]


def text(page: str) -> str:
    """All that a page says."""
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", text(page))


def blocks(page: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page, all or those in these languages."""
    whole = text(page)
    found = (Block(page, whole.count("\n", 0, each.start()) + 1, each[1], each[2]) for each in FENCED.finditer(whole))
    return [block for block in found if not languages or block.language in languages]


def all_blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages."""
    return [block for page in pages() for block in blocks(page, *languages)]


def files() -> Iterator[Block]:
    """The blocks that are files, each under a name of its own."""
    return (block for block in all_blocks() if block.file)


def file(name: str) -> str:
    """The file of that name, as one of the pages has it."""
    (found,) = (block for block in files() if block.file == name)
    return found.text


def part(page: str, name: str) -> str:
    """What a page has between `<!-- name -->` and `<!-- /name -->`."""
    (found,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text(page), re.DOTALL)
    return str(found)


def block(page: str, name: str) -> str:
    """What is in the first fenced block of a page's part."""
    found = FENCED.search(part(page, name))
    assert found, f"{page}: {name} has no block"
    return found[2]


def rows(table: str) -> list[list[str]]:
    """The cells of a table, row by row, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in CELL.split(line[1:-1])] for line in lines[2:]]


def commands(page: str) -> list[str]:
    """The commands that a page shows, in their order."""
    return [command for block in blocks(page, "sh") for command in block.commands]


def words(page: str, command: str) -> list[str]:
    """The words of a command behind its program; fails unless the page shows it."""
    assert command in commands(page), f"{page} does not show: {command}"
    return shlex.split(command)[1:]
