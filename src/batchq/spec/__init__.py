"""The model of a job, to which the job file (YAML, TOML, JSON) and the Python builder both lead."""

from typing import TYPE_CHECKING

from batchq.lazy import attributes

if TYPE_CHECKING:
    from batchq.core.conditions import Condition
    from batchq.spec.builder import After, Job, Task, sized
    from batchq.spec.fields import Priority, Sizes
    from batchq.spec.file import load, loads
    from batchq.spec.model import Document, GroupSpec, JobSpec, ServerSpec, TaskSpec, WindowSpec
    from batchq.spec.schema import json_schema

__all__ = [
    "After",
    "Condition",
    "Document",
    "GroupSpec",
    "Job",
    "JobSpec",
    "Priority",
    "ServerSpec",
    "Sizes",
    "Task",
    "TaskSpec",
    "WindowSpec",
    "json_schema",
    "load",
    "loads",
    "sized",
]

__getattr__ = attributes(
    __name__,
    {
        "After": "batchq.spec.builder",
        "Condition": "batchq.core.conditions",
        "Document": "batchq.spec.model",
        "GroupSpec": "batchq.spec.model",
        "Job": "batchq.spec.builder",
        "JobSpec": "batchq.spec.model",
        "Sizes": "batchq.spec.fields",
        "sized": "batchq.spec.builder",
        "Priority": "batchq.spec.fields",
        "ServerSpec": "batchq.spec.model",
        "Task": "batchq.spec.builder",
        "TaskSpec": "batchq.spec.model",
        "WindowSpec": "batchq.spec.model",
        "json_schema": "batchq.spec.schema",
        "load": "batchq.spec.file",
        "loads": "batchq.spec.file",
    },
)
