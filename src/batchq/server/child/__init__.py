"""The part of the server inside a pool process (or thread): an order comes in, the operation runs, its end goes back.

`order` holds the values that cross, and `executing` runs one attempt. `trace` leads the operation through Celery's
tracer, `log` keeps its words, and `restore` puts the process back in order. Nothing in here opens a database or talks
to the broker.
"""
