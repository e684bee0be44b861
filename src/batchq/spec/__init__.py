"""The model of a job, to which the job file (YAML, TOML, JSON) and the Python builder both lead."""

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
