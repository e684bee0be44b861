"""A Django project with two apps, whose tasks are operations of a batch job."""

from proj.celery import app as celery_app

__all__ = ["celery_app"]
