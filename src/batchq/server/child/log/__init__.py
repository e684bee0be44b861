"""The log of an attempt: everything that an operation says is kept, and its secrets are hidden.

An operation says something by logging, printing or failing, from its own thread or from a thread that it started.
Each record that a logger lets through is kept once, however the host sets up its logs, and so is each print. Two things
are out of reach: output that the operation writes to a file descriptor itself, and output of programs that it starts.
"""
