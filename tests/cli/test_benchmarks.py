"""The benchmarks run, and their JSON keeps its shape; what they measure is nobody's test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
WORKLOADS = {"wide": 21, "drain": 21, "chain": 2, "job1": 5, "layers": 20}
SIDES = ["bare", "batchq", "canvas"]


def benchmark(*words):
    """Run `python -m benchmarks …`; returns what it printed, if that is JSON."""
    argv = [sys.executable, "-m", "benchmarks", *words]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout) if "json" in words else None


@pytest.fixture(scope="module")
def report():
    return benchmark("--tasks", "20", "--pairs", "1", "--threads", "2", "-o", "json")


pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
def test_a_report_says_what_was_compared_and_on_what(report):
    assert {name: report[name] for name in ("threads", "pairs", "database")} == {
        "threads": 2,
        "pairs": 1,
        "database": "sqlite",
    }
    assert report["machine"].keys() == {
        *("system", "cpus", "load", "load_after", "fsync_ms", "python", "celery", "batchq")
    }
    assert {name: figures["tasks"] for name, figures in report["workloads"].items()} == WORKLOADS


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_all_sides_of_a_workload_have_the_same_figures(report, workload):
    figures = report["workloads"][workload]
    assert list(figures["sides"]) == SIDES
    parts = {"main", "pool", "client", "broker"}
    for side, summary in figures["sides"].items():
        assert 0 < summary["ratio"]["min"] <= summary["ratio"]["median"] <= summary["ratio"]["max"]
        assert summary["cpu_ms"].keys() == parts | ({"coordinator"} if side == "batchq" else set())
        assert (summary["stored_ms"] is not None) == (side == "batchq")
    assert [run.keys() for run in figures["runs"]] == [set(SIDES)]


@pytest.mark.slow
def test_a_hop_is_measured_where_a_task_follows_others_into_a_free_thread(report):
    measured = {
        (name, side)
        for name, figures in report["workloads"].items()
        for side, summary in figures["sides"].items()
        if summary["hop_ms"]
    }
    followed = {(name, side) for name in ("wide", "drain", "chain", "layers") for side in ("batchq", "canvas")}
    assert measured == {*followed, ("chain", "bare")}


@pytest.mark.slow
def test_a_saved_run_becomes_a_page_and_a_plot(report, tmp_path):
    (tmp_path / "saved.json").write_text(json.dumps(report))
    benchmark("report", str(tmp_path / "saved.json"), "--to", str(tmp_path))
    page, plot = (tmp_path / "report.md").read_text(), ElementTree.parse(tmp_path / "report.svg").getroot()
    assert all(f"| {name} {tasks} | bare |" in page for name, tasks in WORKLOADS.items())
    said = {text.text for text in plot.iter("{http://www.w3.org/2000/svg}text")}
    assert {"batchq on SQLite", "Celery's chord", "Celery's canvas", "bare Celery, by hand"} <= said


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "part", "keys"),
    [
        ("growth waiting --tasks 20 --jobs 2 --repeat 1", "cases", {"waiting"}),
        ("ahead wide chain --tasks 20 --turns 1", "workloads", {"wide", "chain"}),
        ("idle --seconds 1", "cores", {"server", "coordinator", "coordinator's beat", "worker", "solo worker"}),
        ("submit --tasks 20 --repeat 1", "sources", {"yaml", "json", "python"}),
    ],
)
def test_the_other_benchmarks_run(words, part, keys, tmp_path):
    found = benchmark(*words.split(), "-o", "json")
    assert found[part].keys() >= keys
    (tmp_path / "saved.json").write_text(json.dumps(found))
    benchmark("report", str(tmp_path / "saved.json"), "--to", str(tmp_path))
    assert not (tmp_path / "report.svg").exists()
