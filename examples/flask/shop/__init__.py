"""A Flask app factory with Celery as Flask's documentation has it, and batchq: see `create_app`."""

from celery import Celery, Task
from flask import Flask

from batchq import BatchQ
from shop import db, views


def celery_init_app(app: Flask) -> Celery:
    """Make the Celery app; its tasks, and so all operations of a batch job, run in the Flask app's context."""

    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    app.extensions["batchq"] = BatchQ(celery_app)
    return celery_app


def create_app() -> Flask:
    """Make the Flask app; `FLASK_*` of the environment counts more than what is set here."""
    app = Flask(__name__)
    app.config.from_mapping(DATABASE="shop.sqlite", CELERY={"task_ignore_result": True})
    app.config.from_prefixed_env()
    celery_init_app(app)
    db.init_app(app)
    app.register_blueprint(views.blueprint)
    return app
