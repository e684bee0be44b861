"""The benchmarks run, and their JSON keeps its shape; what they measure is nobody's test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKLOADS = {"wide": 21, "chain": 2, "job1": 5, "layers": 20}


@pytest.fixture(scope="module")
def report():
    argv = [sys.executable, "-m", "benchmarks", "--tasks", "20", "--pairs", "1", "--threads", "2", "-o", "json"]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_report_says_what_was_compared_and_on_what(report):
    assert {name: report[name] for name in ("threads", "pairs", "database")} == {
        "threads": 2,
        "pairs": 1,
        "database": "sqlite",
    }
    assert report["machine"].keys() == {"system", "cpus", "load", "python", "celery", "batchq"}
    assert {name: figures["tasks"] for name, figures in report["workloads"].items()} == WORKLOADS


@pytest.mark.parametrize("workload", WORKLOADS)
def test_both_sides_of_a_workload_have_the_same_figures(report, workload):
    figures = report["workloads"][workload]
    assert figures.keys() == {"tasks", "ratio", "batchq", "bare", "runs"}
    assert 0 < figures["ratio"]["min"] <= figures["ratio"]["median"] <= figures["ratio"]["max"]
    for side in ("batchq", "bare"):
        assert figures[side].keys() == {"tasks_per_second", "submit_seconds", "hop_ms", "cpu_ms_per_task", "peak_mib"}
        assert [run[side].keys() for run in figures["runs"]] == [
            {"seconds", "submit_seconds", "tasks_per_second", "cpu_ms_per_task", "peak_mib"}
        ]


def test_a_hop_is_measured_where_a_task_follows_others_into_a_free_thread(report):
    measured = {
        (name, side)
        for name, figures in report["workloads"].items()
        for side in ("batchq", "bare")
        if figures[side]["hop_ms"]
    }
    assert measured == {("wide", "batchq"), ("chain", "batchq"), ("chain", "bare"), ("layers", "batchq")}
