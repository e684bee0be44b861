"""The JSON Schema of the job file, made from the model, for editors and other programs."""

from __future__ import annotations

import json
from pathlib import Path

from batchq.core.json import JSON
from batchq.spec.model import Document

FILE = Path(__file__).parent.parent / "job.schema.json"

SHORT_TASK = {"type": "string", "description": "Short for a task with only `run`."}


def json_schema() -> dict[str, JSON]:
    """Return the JSON schema of a job file: the model, with each name as the key of the thing it names."""
    schema = Document.model_json_schema()
    kinds = schema["$defs"]
    for kind in ("TaskSpec", "JobSpec"):
        del kinds[kind]["properties"]["name"]
        kinds[kind]["required"].remove("name")
    del kinds["TaskSpec"]["required"]
    job = kinds["JobSpec"]["properties"]
    job["tasks"] = {
        "type": "object",
        "title": "Tasks",
        "minProperties": 1,
        "additionalProperties": {"anyOf": [{"$ref": "#/$defs/TaskSpec"}, SHORT_TASK]},
    }
    for part in ("groups", "servers"):
        values = schema["properties"][part]
        values["additionalProperties"] = {"anyOf": [values["additionalProperties"], {"type": "null"}]}
    defined = schema["properties"]["limits"]
    schema["properties"] |= {"job": {"type": "string", "title": "Name of the only job"}, **job}
    # At the top of a file a mapping makes limits, and a list names those that the only job takes.
    schema["properties"]["limits"] = {"anyOf": [defined, job["limits"]], "title": "Limits"}
    schema["dependentRequired"] = {"job": ["tasks"], **{key: ["job"] for key in job if key != "limits"}}
    schema["minProperties"] = 1
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "batchq job file",
        "description": "Jobs, batch groups, batch servers and limits.",
    }


def text() -> str:
    """The schema as it is shipped."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def write() -> None:
    """Write the shipped file anew."""
    FILE.write_text(text(), encoding="utf-8")
