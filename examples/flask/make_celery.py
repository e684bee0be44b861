"""What `-A make_celery` finds: the Celery app of a Flask app that is made for workers and batch servers."""

from shop import create_app, tasks

flask_app = create_app()
celery_app = flask_app.extensions["celery"]

__all__ = ["celery_app", "flask_app", "tasks"]
