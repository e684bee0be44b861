"""Statements and lists, by the name of the module that held them: `batchq.store.sql` has both now."""

from batchq.store.sql.lists import among as among
from batchq.store.sql.statement import Reply as Reply
from batchq.store.sql.statement import Statement as Statement
from batchq.store.sql.statement import forget as forget
from batchq.store.sql.statement import send as send
