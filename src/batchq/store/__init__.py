"""All SQL: the database and its transactions, the guarded moves, and what people read."""
