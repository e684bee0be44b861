"""Store the reason of a failed attempt in a column; until now the first words of its error told it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# How the sentences of older versions begin, and the reason that each of them means.
BEGINNINGS = {
    "lost: ": "lost",
    "timed out: ": "timed_out",
    "not started: ": "not_started",
    "terminated by an operator (": "aborted",
}


def upgrade() -> None:
    # Processes of an older version leave it empty.
    known = sa.CheckConstraint(
        "reason IN ('error', 'lost', 'timed_out', 'not_started', 'aborted')", name="reason_known"
    )
    op.add_column("batchq_attempt", sa.Column("reason", sa.String(16), known, nullable=True))
    attempt = sa.table("batchq_attempt", sa.column("status"), sa.column("error", sa.Text()), sa.column("reason"))
    # By substr: SQLite's LIKE ignores case, and would match other errors too.
    told = ((sa.func.substr(attempt.c.error, 1, len(words)) == words, it) for words, it in BEGINNINGS.items())
    failed = sa.update(attempt).where(attempt.c.status == "error")
    op.execute(failed.values(reason=sa.case(*told, else_="error")))
