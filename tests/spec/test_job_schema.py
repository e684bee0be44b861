"""The JSON Schema that ships with the package is that of the model."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

from batchq.core.states import SYNONYMS
from batchq.core.windows import DAYS
from batchq.spec import TaskSpec, json_schema, schema
from batchq.spec.fields import Day, Word


def test_the_shipped_schema_is_up_to_date():
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(), "run `python -m batchq.spec`"


def test_one_command_writes_it():
    before = schema.FILE.read_bytes()
    subprocess.run([sys.executable, "-m", "batchq.spec"], check=True)
    assert schema.FILE.read_bytes() == before


def test_it_knows_every_word_that_a_file_may_use():
    assert set(get_args(Word)) == set(SYNONYMS)
    assert get_args(Day) == DAYS


def test_it_describes_the_file_and_not_the_model():
    described = json_schema()
    task = described["$defs"]["TaskSpec"]
    assert set(task["properties"]) == set(TaskSpec.model_fields) - {"name"}
    assert "required" not in task  # without `run` it is a gate
    assert task["additionalProperties"] is False
    assert set(described["properties"]) == {
        "job", "tasks", "group", "priority", "run_by", "company", "jobs", "groups", "servers",
        "limits", "tasks_at_once", "one_at_a_time",
    }  # fmt: skip
    assert described["dependentRequired"]["tasks"] == ["job"]
