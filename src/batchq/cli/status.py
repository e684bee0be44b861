"""`batchq status`: how everything stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from batchq.cli.context import database, timezone
from batchq.cli.group import waiting
from batchq.cli.output import Part, counted, output_option, present, watch_option


@click.command()
@output_option
@watch_option
def status(output: str, watch: bool) -> None:
    """Show how everything stands: runs, tasks, servers, and what waits for what."""
    from batchq import views

    opened = database()

    def read() -> Mapping[str, Any]:
        with opened.read() as tx:
            return views.status_view(tx, timezone=timezone())

    present(read, _drawn, output=output, watch=watch)


def _drawn(view: Mapping[str, Any]) -> Iterator[Part]:
    yield f"Runs     {counted(view['runs']) or 'none open'}"
    yield f"Tasks    {', '.join(f'{number} {word}' for word, number in view['tasks'].items())}"
    servers = ", ".join(f"{number} {state}" for state, number in view["servers"].items())
    yield f"Servers  {servers or 'none'}; {view['busy']} of {view['threads']} threads busy"
    yield from waiting(view["waiting"])
