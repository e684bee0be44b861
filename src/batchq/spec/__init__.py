"""The model of a job, to which the job file (YAML, TOML, JSON) and the Python builder both lead."""

from typing import TYPE_CHECKING

from batchq.lazy import attributes

if TYPE_CHECKING:
    from batchq.core.conditions import Condition
    from batchq.spec.builder import After, Job, Task
    from batchq.spec.fields import Limits, Priority
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
    "Limits",
    "Priority",
    "ServerSpec",
    "Task",
    "TaskSpec",
    "WindowSpec",
    "json_schema",
    "load",
    "loads",
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
        "Limits": "batchq.spec.fields",
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
