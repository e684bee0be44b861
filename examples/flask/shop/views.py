"""A page that submits the night's job."""

from flask import Blueprint, current_app

from batchq import Job
from shop import tasks

blueprint = Blueprint("nights", __name__)


@blueprint.post("/nights/<day>")
def night(day: str) -> tuple[dict[str, int], int]:
    """Submit the job for this day; answers with the number of its run."""
    job = Job("NIGHT")
    collected = job.task("Collect", tasks.collect, args=[day, [100, 250]])
    job.task("Invoice", tasks.invoice, args=[day], after=collected.success)
    return {"run": current_app.extensions["batchq"].submit(job)}, 202
