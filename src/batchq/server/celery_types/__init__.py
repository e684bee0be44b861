"""The objects of Celery, kombu, billiard and amqp, which have no types: the parts of each that our code leans on.

The objects themselves are theirs. The protocols in here hold our code to those parts when it is type checked. A
function of theirs that we replace stands here as an attribute.
"""
