"""`batchq audit`: who changed what, when and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click

from batchq import views
from batchq.cli.context import users_now
from batchq.cli.fields import SINCE
from batchq.cli.output import Table, local, output_option
from batchq.cli.reading import print_list


@click.command("list")
@click.option("--since", type=SINCE, metavar="WHEN", help="Since an instant, a time of day, or for so long: 1h, 18:00.")
@click.option("--who", metavar="USER", help="Only what this person did.")
@click.option("--what", metavar="ACTION", help="Only this action, as hold; or this kind of thing, as server.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many at most."
)
@output_option
def list_(since: datetime | None, who: str | None, what: str | None, limit: int, output: str) -> None:
    """List what was changed, the newest first: when, by whom, and why."""
    print_list(
        lambda tx: views.audit_lines(tx, since=since, who=who, what=what, limit=limit), audit_table, output=output
    )


def audit_table(lines: Sequence[views.AuditLine]) -> Table:
    """Changes for people."""
    now = users_now()
    columns = ("When", "Who", "By", "What", "On", "Before", "After", "Why")
    return Table(columns, [_row(line, now) for line in lines], empty="Nothing was changed.")


def _row(line: views.AuditLine, now: datetime) -> tuple[str, ...]:
    return (
        local(line["at"], now),
        line["who"],
        line["by"],
        line["what"],
        f"{line['kind']} {line['name']}",
        line["before"] or "–",
        line["after"] or "–",
        line["why"] or "",
    )
