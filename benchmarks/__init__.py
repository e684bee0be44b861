"""Benchmarks of batchq: ratios against bare Celery, measured in the same run."""
