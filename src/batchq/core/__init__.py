"""The rules as pure functions over plain values: no clock, no SQL, no Celery, no environment."""
