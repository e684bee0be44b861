"""`python -m batchq` is the `batchq` command."""

from batchq.cli import main

main()
