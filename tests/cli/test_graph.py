"""Drawings of jobs: what a reader sees, and that no name can break them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchq.cli import graph
from batchq.core.conditions import Condition, Join, Joined, Node
from batchq.core.states import Outcome
from batchq.spec import loads
from stage import JOB_1


def nodes(text):
    (job,) = loads(text).jobs.values()
    return {task.name: Node(task.after, task.join) for task in job.tasks}


def after(*names, join=Join.ALL):
    return Node(tuple(Condition(name) for name in names), join)


def test_job_1_reads_from_top_to_bottom():
    assert graph.text(nodes(JOB_1)) == [
        "●        TASK 1",
        "●        TASK 2  after TASK 1 finished",
        "├─●      TASK 3  after TASK 2",
        "├─│─●    TASK 4  after TASK 2",
        "● │ │    TASK 5  after TASK 2 error",
        "  ├─│─●  TASK 6  after TASK 3 error",
        "  ●─╯    TASK 7  after TASK 3, TASK 4",
    ]


def test_join_and_handled_errors_are_named():
    drawn = graph.text(
        {
            "A": Node(),
            "B": Node(),
            "C": Node((Condition("A", Outcome.ERROR, True), Condition("B")), Join.ANY),
        }
    )
    assert drawn[-1] == "●─╯  C  after any of A error (handles it), B"


NESTED = """
job: J
tasks:
  A: x
  B: x
  C: x
  T: {run: x, after: {all: [A, {any: [{B: {outcome: error, handles: true}}, C]}]}}
  G: {after: {any: [{all: [{T: skipped}, C]}, {T: over}]}}
"""


def test_joins_within_joins_are_folded_into_the_task_behind_them_as_rule_50_says():
    assert graph.text(nodes(NESTED)) == [
        "●      A",
        "│ ●    B",
        "│ │ ●  C",
        "●─┴─┤  T  after A and (B error (handles it) or C)",
        "●───╯  G  after (T skipped and C) or T over",
    ]
    assert graph.mermaid(nodes(NESTED))[1:] == [
        '    t1["A"]',
        '    t2["B"]',
        '    t3["C"]',
        '    t4["T (A and (B error (handles it) or C))"]',
        '    t5["G ((T skipped and C) or T over)"]',
        "    t1 --> t4",
        "    t2 -->|error (handles it)| t4",
        "    t3 --> t4",
        "    t4 -->|skipped| t5",
        "    t3 --> t5",
        "    t4 -->|over| t5",
    ]
    assert '    t4 [label="T (A and (B error (handles it) or C))"];' in graph.dot(nodes(NESTED))


def test_a_wide_job_with_joins_shares_no_row_among_tasks_that_a_join_tells_apart():
    wide = {f"A{n}": Node() for n in range(30)}
    inner = Joined(Join.ANY, tuple(Condition(f"A{n}") for n in range(1, 30)))
    drawn = graph.text(wide | {"T": Node((Condition("A0"), inner))})
    assert len(drawn) == 31
    assert drawn[-1].endswith("T    after A0 and (A1 or A2 or A3 or 26 more)")


def test_tasks_that_nothing_links_do_not_stand_under_each_other():
    assert graph.text({"A": Node(), "B": Node(), "C": Node()}) == ["●    A", "  ●  B", "●    C"]


def test_a_wide_fan_of_tasks_alike_shares_a_row():
    wide = {"start": Node(), **{f"part {n}": after("start") for n in range(38)}}
    wide["end"] = after(*(f"part {n}" for n in range(38)))
    assert graph.text(wide) == [
        "●  start",
        "●  part 0 … part 37 (38 tasks)  after start",
        "●  end                          after part 0 … part 37 (38 tasks)",
    ]


def test_a_drawing_too_wide_for_lines_numbers_the_layers():
    wide = {f"A{n}": Node() for n in range(30)} | {f"B{n}": after(f"A{n}") for n in range(30)}
    drawn = graph.text(wide)
    assert (drawn[0], drawn[-1]) == ("1  A0", "2  B29  after A29")


def test_a_job_of_40_tasks_fits_into_80_columns():
    layers = {
        f"task {layer}.{n}": after(*(f"task {layer - 1}.{m}" for m in range(4))) if layer else Node()
        for layer in range(10)
        for n in range(4)
    }
    drawn = graph.text(layers)
    assert len(drawn) == 40
    assert max(map(len, drawn)) <= 80


@st.composite
def jobs(draw):
    count = draw(st.integers(1, 25))
    return {
        f"T{n}": after(
            *draw(st.lists(st.sampled_from([f"T{m}" for m in range(n)]), unique=True, max_size=4)) if n else ()
        )
        for n in range(count)
    }


@given(jobs())
def test_every_task_has_one_row_and_every_line_leads_from_a_task_to_one_that_follows_it(job):
    rows = graph._drawn(job, most=100)
    assert sorted(row.name for row in rows) == sorted(job)
    lanes: dict[int, str] = {}
    for row in rows:
        (at,) = [column for column, char in enumerate(row.drawing) if char == graph.DOT]
        joined = {lanes[column] for column, char in enumerate(row.drawing) if char in "├┤┼╰╯┴"}
        above = {lanes[at]} if at in lanes else set()
        assert joined | above == {condition.task for condition in job[row.name].after}
        for column, char in enumerate(row.drawing):
            if char in "╰╯┴":
                del lanes[column]
        lanes.pop(at, None)
        if any(row.name == condition.task for node in job.values() for condition in node.after):
            lanes[at] = row.name


NASTY = ['say "hi"', "a|b]c[d", "x --> y", "back\\slash", "<b>&amp;</b>", "%%{init}%%", "end", "`code`", "Nacht äöü"]


@pytest.mark.parametrize("name", NASTY)
def test_names_cannot_break_mermaid_or_graphviz(name):
    job = {name: Node(), "B": Node((Condition(name, Outcome.ERROR),))}
    mermaid = graph.mermaid(job)
    assert mermaid[0] == "flowchart TD"
    label = mermaid[1].removeprefix('    t1["').removesuffix('"]')
    assert not set(label) & set('"<>[]{}|`\\%&')
    assert mermaid[3] == "    t1 -->|error| t2"
    dot = graph.dot(job)
    inner = dot[2].removeprefix('    t1 [label="').removesuffix('"];')
    assert inner.replace("\\\\", "").replace('\\"', "").count('"') == 0
    assert inner.replace("\\\\", "\\").replace('\\"', '"') == name
    assert dot[4] == '    t1 -> t2 [label="error"];'
    assert (dot[0], dot[-1]) == ("digraph job {", "}")
