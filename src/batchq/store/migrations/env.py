"""Alembic's entry: runs on the connection that `batchq.store.schema` hands over."""

from alembic import context

from batchq.store.tables import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    version_table="batchq_version",
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
