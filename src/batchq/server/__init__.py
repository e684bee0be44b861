"""The batch server: a Celery worker that takes tickets, claims, executes and reports (rules 16, 19, 20, 31)."""
