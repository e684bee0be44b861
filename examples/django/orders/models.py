"""What was ordered."""

from django.db import models


class Order(models.Model):
    """One order of a day."""

    day = models.DateField()
    amount = models.PositiveIntegerField()
    closed = models.BooleanField(default=False)
