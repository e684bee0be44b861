"""Operations over orders."""

from datetime import date

from celery import shared_task

from orders.models import Order


@shared_task
def close(day: str) -> int:
    """Close the orders of the day; returns how many there are."""
    return Order.objects.filter(day=date.fromisoformat(day)).update(closed=True)
