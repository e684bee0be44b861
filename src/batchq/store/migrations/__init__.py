"""The schema's history, one Alembic revision a step; shipped in the wheel."""
