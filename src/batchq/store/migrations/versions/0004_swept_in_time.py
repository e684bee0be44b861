"""PostgreSQL sweeps what is in motion by how much moves, not by how much there is to remember."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Each step of a task leaves an entry behind in the small indexes by which ready tasks are found, and every look at them
# passes it until it is swept away. By default that waits until a fifth of the table is dead, history and all.
STORAGE = (
    "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, "
    "autovacuum_analyze_scale_factor = 0.05, vacuum_index_cleanup = on"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE batchq_task SET ({STORAGE})")
