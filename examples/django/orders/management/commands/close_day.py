"""`python manage.py close_day 2026-11-26 100 250`: take the day's orders in, and submit the job that follows."""

from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from batchq import Job
from invoices.tasks import invoice
from orders.models import Order
from orders.tasks import close
from proj.celery import batch


class Command(BaseCommand):
    """Store the orders, and once they are stored submit the job."""

    help = "Take the orders of a day in, and submit the job that closes and invoices them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("day")
        parser.add_argument("amounts", nargs="+", type=int)

    def handle(self, day: str, amounts: list[int], **_: Any) -> None:
        with transaction.atomic():
            Order.objects.bulk_create(Order(day=date.fromisoformat(day), amount=amount) for amount in amounts)
            # Not before the commit: an operation would look for orders that it cannot see yet.
            transaction.on_commit(lambda: self._submit(day))

    def _submit(self, day: str) -> None:
        job = Job("CLOSE DAY")
        closed = job.task("Close", close, args=[day])
        job.task("Invoice", invoice, args=[day], after=closed.success)
        self.stdout.write(f"run {batch.submit(job)}")
