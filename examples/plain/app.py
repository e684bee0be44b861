"""A Celery project in one file, joined by two lines: the import, and `BatchQ(app)`."""

import logging

from celery import Celery

from batchq import BatchQ, Job, current

app = Celery("shop")
batch = BatchQ(app)

logger = logging.getLogger(__name__)


@app.task
def collect(day):
    """Count the orders of a day."""
    return {"day": day, "orders": 3}


@app.task(autoretry_for=(ConnectionError,))
def invoice():
    """Write the invoices; how often it is tried again is said by the job."""
    logger.info("invoicing for %s, attempt %d", current().job, current().attempt)


@app.task
def alarm():
    """Call somebody."""
    logger.error("%s, run %d, went wrong", current().job, current().run)


def night(day):
    """The job of night.yaml, from Python: `python -c "from app import *; batch.submit(night('today'))"`."""
    job = Job("NIGHT")
    first = job.task("Collect", collect, args=[day])
    second = job.task("Invoice", invoice, after=first.success, retries=2, retry_delay=30)
    job.task("Alarm", alarm, after=first.error | second.error)
    return job
