"""`python -m batchq.spec` writes `job.schema.json` anew."""

from batchq.spec.schema import write

write()
