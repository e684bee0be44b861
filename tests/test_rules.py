"""The book of rules holds what it says: a rule that is cited is in it, a rule in it is cited by a test, and its tables
are those of the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from batchq import spec
from batchq.core.conditions import Condition, Ended, Join, Node, readiness, settle, verdict
from batchq.core.override import Override
from batchq.core.states import LABELS, MET_BY, MOVES, RUN_MOVES, SYNONYMS, Outcome, RunState, State
from batchq.core.topology import Server, Topology
from batchq.core.why import delayed, held, storing, waits_for, why_not, why_ready
from batchq.core.windows import Window, parse_time, periods
from batchq.views import server_state

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "docs" / "rules.md"
TEXT = BOOK.read_text(encoding="utf-8")
HEADING = re.compile(r'^### Rule (\d+): (.+) <a id="rule-(\d+)"></a>$', re.M)
PART = re.compile(r"^\*\*([a-z])\.\*\* ", re.M)
NUMBER = r"\d+[a-z]?\b"
JOINT = r"(?:, (?:and |or )?| (?:and|or|to) | ?[-–] ?)"
# "rule 7", "rules 3-7", "rules 10, 12 and 16", "#rule-7"; in the name of a test each _ is a blank.
CITED = re.compile(rf"\brules?[ -]({NUMBER}(?:{JOINT}{NUMBER})*)", re.IGNORECASE)
RANGE = re.compile(r"(\d+)(?: to | ?[-–] ?)(\d+)")


def sections(book: str) -> dict[int, str]:
    """The text of each rule of the book, by its number."""
    found = list(HEADING.finditer(book))
    ends = [heading.start() for heading in found[1:]] + [len(book)]
    return {int(heading[1]): book[heading.end() : end] for heading, end in zip(found, ends, strict=True)}


def in_book(book: str) -> set[str]:
    """Everything that may be cited: `7`, and `9a` for a part of a rule."""
    parts = {f"{number}{letter}" for number, text in sections(book).items() for letter in PART.findall(text)}
    return parts | {str(number) for number in sections(book)}


def cited(text: str) -> set[str]:
    """The rules that a text cites; a range cites all that lie in it."""
    found: set[str] = set()
    for said in CITED.findall(re.sub(r"[_\s#]+", " ", text)):
        found |= set(re.findall(NUMBER, said))
        for first, last in RANGE.findall(said):
            found |= set(map(str, range(int(first), int(last) + 1)))
    return found


def texts(*places: str) -> Iterator[tuple[str, str]]:
    """Name and text of each file that may cite a rule; this one cites only to show how."""
    for path in sorted(path for place in places for path in ROOT.glob(place)):
        if path.suffix in (".py", ".json", ".md") and path not in (BOOK, Path(__file__)):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def table(name: str) -> list[list[str]]:
    """The cells of a table of the book, row by row, without its head."""
    (found,) = re.findall(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", TEXT, re.S)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found.splitlines()]
    assert len({len(row) for row in rows[2:]}) == 1
    return rows[2:]


# --- citations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("(rule 7)", "7"),
        ("Rules 3-5, 9a\n    # and 16 to 18.", "3 4 5 9a 16 17 18"),
        ("test_it_ends_as_rules_30_to_32_say", "30 31 32"),
        ("RULE_6, rule 12's; rules 20,\n21 or 22", "6 12 20 21 22"),
        ("docs/rules.md#rule-7", "7"),
        ("the rules of 3 people, ruler 4, rules.py", ""),
    ],
)
def test_a_citation_is_read_in_every_form_in_which_it_is_written(text: str, rules: str):
    assert cited(text) == set(rules.split())


def test_every_rule_has_an_anchor_of_its_number_and_is_linked_from_the_top():
    rules = HEADING.findall(TEXT)
    assert [number for number, _, _ in rules] == [anchor for _, _, anchor in rules]
    assert len(rules) == len(re.findall(r"^#+ Rule", TEXT, re.M))
    numbers = list(sections(TEXT))
    assert numbers == sorted(set(numbers))
    assert list(map(int, re.findall(r"\(#rule-(\d+)\)", TEXT[: TEXT.index("\n## ")]))) == numbers


def test_every_rule_that_is_cited_is_in_the_book():
    citing = texts("src/**/*", "tests/**/*", "docs/*.md", "*.md")
    unknown = {name: cited(text) - in_book(TEXT) for name, text in citing}
    assert {name: rules for name, rules in unknown.items() if rules} == {}
    assert cited(TEXT) <= in_book(TEXT)


def test_every_rule_in_the_book_is_cited_by_a_test():
    files = [text for _, text in texts("tests/**/*.py") if re.search(r"^\s*(async )?def test_", text, re.M)]
    numbers = {int(re.sub(r"\D", "", rule)) for text in files for rule in cited(text)}
    assert set(sections(TEXT)) - numbers == set()


# --- tables -------------------------------------------------------------------------------------------------

NOON = datetime(2027, 6, 1, 12, tzinfo=UTC)
NIGHT = Window(clock_time(18), clock_time(7, 30), 20, "Europe/Oslo")
# How many conditions are open, met and impossible.
COUNTS = {"met": (0, 1, 0), "open": (1, 0, 0), "impossible": (0, 0, 1)}


def word(value: str) -> str:
    return f"`{value}`"


def words(values: Iterable[str]) -> str:
    return ", ".join(map(word, values))


def label(state: State) -> str:
    return "didn't run" if state is State.DIDNT_RUN else state.value


def test_outcomes_have_the_words_and_ends_of_the_table():
    assert table("which end meets") == [
        [
            word(outcome),
            words(said for said, meant in SYNONYMS.items() if meant is outcome and said != outcome.value),
            words(state for state in State if state in MET_BY[outcome]),
        ]
        for outcome in Outcome
    ]


@pytest.mark.parametrize(
    ("name", "states", "moves"), [("task", State, MOVES), ("run", RunState, RUN_MOVES)], ids=["task", "run"]
)
def test_states_have_the_labels_and_moves_of_the_table(name: str, states: Any, moves: Any):
    rows = [[word(one), LABELS[one], words(other for other in states if other in moves[one])] for one in states]
    assert table(f"states of {name}s") == rows


def test_two_conditions_lead_where_the_table_says():
    rows = table("joins")
    assert [row[:2] for row in rows] == [list(pair) for pair in combinations_with_replacement(COUNTS, 2)]
    for one, other, *results in rows:
        counts = [sum(pair) for pair in zip(COUNTS[one], COUNTS[other], strict=True)]
        assert [label(readiness(join, *counts)) for join in (Join.ALL, Join.ANY)] == results


def test_job_1_ends_as_the_table_says():
    (job,) = spec.load(ROOT / "examples" / "job1.yaml").jobs.values()
    nodes = {task.name: Node(task.after, task.join) for task in job.tasks}
    rows = table("runs of job 1")
    assert len(rows) == 7
    for fails, *ends, expected in rows:
        failing = {f"TASK {number}" for number in fails.split()}
        states = settle(nodes, dict.fromkeys(nodes, State.WAITING))
        while ready := [name for name, state in states.items() if state is State.READY]:
            played = {name: State.ERROR if name in failing else State.SUCCESS for name in ready}
            states = settle(nodes, states | played)
        assert [numbers(states, state) for state in (State.SUCCESS, State.ERROR, State.DIDNT_RUN)] == ends
        assert verdict(map(Ended, states.values())).value == expected


def test_joins_within_joins_lead_where_the_table_says():
    for after, *ends, expected in table("gates"):
        text = f"job: J\ntasks: {{A: x, B: x, C: x, T: {{run: x, after: {after.strip('`')}}}}}"
        nodes = {task.name: Node(task.after, task.join) for task in spec.loads(text).jobs["J"].tasks}
        states = dict(zip("ABC", (State(end.replace("didn't run", "didnt_run")) for end in ends), strict=True))
        assert label(settle(nodes, states | {"T": State.WAITING})["T"]) == expected


def numbers(states: Mapping[str, State], wanted: State) -> str:
    return " ".join(name.removeprefix("TASK ") for name, state in states.items() if state is wanted) or "–"


def test_servers_take_the_groups_of_the_table():
    for row in table("bindings"):
        bound = [frozenset() if said == "–" else frozenset(said.split(", ")) for said in row[:3]]
        topology = Topology(tuple(Server(id_, f"AOS{id_}", groups=groups) for id_, groups in enumerate(bound, 1)))
        for server, taken in zip(topology.servers, row[3:], strict=True):
            assert [each for each in ("default", "BG1", "BG2") if topology.serves(server, each)] == taken.split(", ")


def test_windows_open_as_the_table_says_when_the_clocks_change():
    oslo = ZoneInfo("Europe/Oslo")
    for span, day, said, openings in table("clock changes"):
        start, end = map(parse_time, span.split("–"))
        midnight = datetime.fromisoformat(day).replace(tzinfo=oslo)
        found = periods([Window(start, end, 1, "Europe/Oslo")], 0, midnight, midnight + timedelta(days=1))
        opened = [f"{one.start:%H:%M}–{one.end:%H:%M}" for one in found if one.threads]
        assert (", ".join(opened) or "–") == openings
        offsets = [(midnight + timedelta(hours=hour)).utcoffset() for hour in (0, 12)]
        assert said.startswith("skips" if offsets[0] < offsets[1] else "shows")


def test_a_server_shows_the_first_state_of_the_table_that_fits():
    # Each is so far as its row says, and as all rows below it say.
    facts = [
        ("stopped", False, 0, 1),
        ("lost", False, 0, 1),
        ("running", False, 0, 1),
        ("running", True, 0, 1),
        ("running", True, 0, 0),
        ("running", True, 1, 0),
    ]
    assert [row[0] for row in table("server states")] == [word(server_state(*each)) for each in facts]


def asked(outcome: Outcome, state: State, tell: Callable[..., str]) -> str:
    return tell(Node((Condition("TASK 2", outcome),)), {"TASK 2": state})


def ready(paused: bool = False, busy: int = 0, **facts: Any) -> str:
    servers = (Server(2, "AOS2", 2, frozenset({"BG1"}), **facts),) if facts.pop("there", True) else ()
    return why_ready("BG1", Topology(servers, paused=frozenset({"BG1"} if paused else ())), {2: busy}, NOON)


def test_why_tells_the_first_reason_of_the_table_that_fits():
    closed = {"windows": (NIGHT,), "busy": 2}
    stopping = {**closed, "pool": 0}
    dead = {**stopping, "alive": False}
    assert [row[1] for row in table("why")] == [
        storing(35_000, 100_000),
        held(12, "olav", "14:02 UTC", "month end"),
        *(asked(outcome, State.EXECUTING, waits_for) for outcome in Outcome),
        asked(Outcome.SUCCESS, State.ERROR, why_not),
        asked(Outcome.ERROR, State.SUCCESS, why_not),
        asked(Outcome.SKIPPED, State.SUCCESS, why_not),
        asked(Outcome.FINISHED, State.DIDNT_RUN, why_not),
        asked(Outcome.FINISHED, State.CANCELED, why_not),
        delayed(1, "12:04:10 UTC"),
        ready(paused=True, there=False),
        ready(there=False),
        ready(**dead, enabled=False),
        ready(**dead),
        ready(**stopping),
        ready(**closed),
        ready(override=Override(0, NOON + timedelta(hours=6), "olav", "licence")),
        ready(busy=2),
        ready(),
    ]
