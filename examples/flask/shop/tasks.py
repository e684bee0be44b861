"""Celery tasks of the shop: with `.delay()` on the project's own workers, by their names in a batch job."""

from celery import shared_task
from flask import current_app

from shop.db import get_db


@shared_task
def collect(day: str, amounts: list[int]) -> int:
    """Take the day's sales over; returns how many there are."""
    with get_db() as db:
        db.executemany("INSERT INTO sale (day, amount) VALUES (?, ?)", [(day, amount) for amount in amounts])
    return len(amounts)


@shared_task
def invoice(day: str) -> int:
    """Invoice the day's sales; returns their sum."""
    with get_db() as db:
        (total,) = db.execute("SELECT coalesce(sum(amount), 0) FROM sale WHERE day = ?", [day]).fetchone()
        db.execute("UPDATE sale SET invoiced = 1 WHERE day = ?", [day])
    current_app.logger.warning("%s: invoiced %d", current_app.name, total)
    return total
