"""What was invoiced."""

from django.db import models


class Invoice(models.Model):
    """The invoice of a day."""

    day = models.DateField(unique=True)
    total = models.PositiveIntegerField()
