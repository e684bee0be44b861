"""The project's Celery app, as Celery's documentation has it, and batchq in its last line."""

import os

from celery import Celery

from batchq import BatchQ

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")

app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

batch = BatchQ(app)
