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
SIDES = ["bare", "batchq", "canvas", "quiet"]
OURS = {"batchq", "quiet"}
SVG_TEXT = "{http://www.w3.org/2000/svg}text"


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
        assert summary["cpu_ms"].keys() == parts | ({"coordinator"} if side in OURS else set())
        assert (summary["stored_ms"] is not None) == (side in OURS)
    assert [run.keys() for run in figures["runs"]] == [set(SIDES)]


@pytest.mark.slow
def test_a_hop_is_measured_where_a_task_follows_others_into_a_free_thread(report):
    measured = {
        (name, side)
        for name, figures in report["workloads"].items()
        for side, summary in figures["sides"].items()
        if summary["hop_ms"]
    }
    followed = {(name, side) for name in ("wide", "drain", "chain", "layers") for side in SIDES[1:]}
    assert measured == {*followed, ("chain", "bare")}


@pytest.mark.slow
def test_a_saved_run_becomes_a_page_and_a_plot(report, tmp_path):
    (tmp_path / "saved.json").write_text(json.dumps(report))
    benchmark("report", str(tmp_path / "saved.json"), "--to", str(tmp_path))
    page, plot = (tmp_path / "report.md").read_text(), ElementTree.parse(tmp_path / "report.svg").getroot()
    assert all(f"| {name} {tasks} | bare |" in page for name, tasks in WORKLOADS.items())
    said = {text.text for text in plot.iter(SVG_TEXT)}
    assert {"batchq on SQLite", "Celery's chord", "Celery's canvas", "bare Celery, by hand"} <= said


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "part", "keys"),
    [
        ("growth waiting --tasks 20 --jobs 2 --repeat 1", "cases", {"waiting"}),
        ("ahead wide chain --tasks 20 --turns 1", "workloads", {"wide", "chain"}),
        ("idle --seconds 1", "cores", {"server", "coordinator", "coordinator's beat", "worker", "solo worker"}),
        ("submit --tasks 20 --repeat 1", "sources", {"yaml", "json", "python"}),
        ("passed --crowd 20 --turns 2", "passed", {"without", "behind", "ratio"}),
        ("commit --servers 2 --commits 2 --batches 1", "commit", {"one", "many", "many_to_one"}),
    ],
)
def test_the_other_benchmarks_run(words, part, keys, tmp_path):
    found = benchmark(*words.split(), "-o", "json")
    assert found[part].keys() >= keys
    (tmp_path / "saved.json").write_text(json.dumps(found))
    benchmark("report", str(tmp_path / "saved.json"), "--to", str(tmp_path))
    assert not (tmp_path / "report.svg").exists()


# --- by the number of threads -------------------------------------------------------------------------------

LOUD = ["bare", "canvas", "sqlite", "postgresql"]
QUIET = ["sqlite-quiet", "postgresql-quiet"]


@pytest.mark.long
def test_all_sides_are_compared_at_each_width():
    words = "widths wide chain --pairs 1 --tasks 20 --threads 1 --threads 2 --no-engine -o json"
    found = benchmark(*words.split())
    assert list(found["widths"]) == ["1", "2"]
    for width in found["widths"].values():
        sides = {name: set(figures["sides"]) for name, figures in width["workloads"].items()}
        assert sides == {"wide": {*LOUD, *QUIET}, "chain": set(LOUD)}
    assert {(target["said"], target["threads"]) for target in found["targets"]} >= {
        ("wide, to bare", 1),
        ("hop, to Celery's chain", 2),
    }


def one(value):
    return {"min": value, "median": value, "max": value}


def summary(ratio, hop=None):
    return {
        "tasks_per_second": one(500.0),
        "ratio": one(ratio),
        "cpu_ratio": one(1.0),
        "cpu_ms_per_task": one(2.0),
        "cpu_ms": {"main": one(1.5), "pool": one(0.5)},
        "hop_ms": hop and {"p50": hop, "p95": 2 * hop},
        "hop_ratio": hop and one(hop / 2.0),
    }


def width(ratio):
    """A width at which batchq reaches so many times bare Celery's throughput, and 2 ms from a task to the next."""
    wide = {side: summary(1.0 if side == "bare" else ratio) for side in (*LOUD, *QUIET)}
    chain = {side: summary(1.0 if side == "bare" else ratio, hop=2.0) for side in LOUD}
    return {"workloads": {"wide": {"tasks": 1001, "sides": wide}, "chain": {"tasks": 100, "sides": chain}}}


def measured_alone(cpu_ms, **more):
    case = {"cpu_ms": one(cpu_ms), "all_cpu_ms": one(cpu_ms), **more}
    ratios = {"cpu_ms": one(1.25), "all_cpu_ms": one(1.25)}
    return {"servers": 500, "threads": 2000, "one": case, "many": case, "many_to_one": ratios}


@pytest.fixture
def page_and_plot(tmp_path):
    """What the report makes of a run at 1 and at 4 threads."""
    machine = {"cpus": 2, "load": 0.0, "load_after": 0.0, "fsync_ms": 0.1, "system": "Linux", "python": "3"}
    saved = {
        "kind": "widths",
        "database": "both",
        "pairs": 9,
        "tasks": 1000,
        "widths": {"1": width(0.95), "4": width(1.1)},
        "commit": {"sqlite": measured_alone(0.4), "postgresql": measured_alone(0.5, round_trips=one(2.0))},
        "machine": machine | {"celery": "5", "batchq": "0"},
    }
    (tmp_path / "saved.json").write_text(json.dumps(saved))
    benchmark("report", str(tmp_path / "saved.json"), "--to", str(tmp_path))
    return (tmp_path / "widths.md").read_text(), ElementTree.parse(tmp_path / "widths.svg").getroot()


def test_a_report_of_all_widths_says_which_targets_are_met(page_and_plot):
    page, _ = page_and_plot
    rows = [
        "| wide, to bare | SQLite | ≥ 0.9, 1.2 | 0.95 met | 1.10 missed |",
        "| wide, to bare | PostgreSQL | ≥ 0.5, 0.75, 1 | 0.95 met | 1.10 met |",
        "| hop, to Celery's chain | SQLite | ≤ 0.9 | 1.00 missed | 1.00 missed |",
        "| hop, to Celery's chain | PostgreSQL | ≤ 1.1 | 1.00 met | 1.00 met |",
        "| one server, CPU ms | SQLite | ≤ 0.5 | 0.40 | met |",
        "| one server, the client's CPU ms | PostgreSQL | ≤ 0.45 | 0.50 | missed |",
        "| one server, round trips | PostgreSQL | ≤ 2 | 2.00 | met |",
    ]
    assert [row for row in rows if row not in page] == []
    assert page.index("Targets, and what was measured") < page.index("Tasks per second")
    assert "](widths.svg)" in page


def test_a_report_of_all_widths_draws_a_line_for_each_side(page_and_plot):
    _, plot = page_and_plot
    said = [text.text for text in plot.iter(SVG_TEXT)]
    assert {"batchq on SQLite", "batchq on PostgreSQL", "Celery's canvas", "SQLite, without events"} <= set(said)
    assert said.count("threads") == 2  # wide and chain
    points = [point.get("class") for point in plot.iter("{http://www.w3.org/2000/svg}circle")]
    sides = {"sqlite": 3, "postgresql": 3, "canvas": 2, "bare": 1}  # lines with a point for each of two widths
    assert {side: points.count(side) for side in sides} == {side: 2 * lines for side, lines in sides.items()}
