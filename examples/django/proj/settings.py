"""Settings for a try on one machine."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "for a try only")
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = ["orders", "invoices"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}

# Celery's settings, and batchq's; without a broker and a database `batchq run` brings its own.
CELERY_TASK_IGNORE_RESULT = True
CELERY_BATCHQ_TIMEZONE = "Europe/Oslo"
