"""Operations over invoices."""

from datetime import date

from celery import shared_task
from django.db.models import Sum

from invoices.models import Invoice
from orders.models import Order


@shared_task
def invoice(day: str) -> int:
    """Invoice the closed orders of the day; returns their sum."""
    orders = Order.objects.filter(day=date.fromisoformat(day), closed=True)
    total = orders.aggregate(Sum("amount", default=0))["amount__sum"]
    Invoice.objects.update_or_create(day=date.fromisoformat(day), defaults={"total": total})
    return total
