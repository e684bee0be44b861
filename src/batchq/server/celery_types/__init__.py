"""Protocols for the untyped objects of Celery, kombu, billiard and amqp, with the parts that our code uses.

mypy rejects any use of another part. A function of theirs that we replace is declared as an attribute.
"""
