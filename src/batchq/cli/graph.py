"""Drawings of a job's conditions: lines and dots for a terminal, Mermaid, or Graphviz."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from batchq.core.conditions import After, Condition, Join, Joined, Node, is_nested, leaves, order, outermost
from batchq.core.states import Outcome
from batchq.escape import printable

Nodes = Mapping[str, Node]

MOST_LANES = 20
NAMED = 4  # predecessors that a row names before it only counts them

# The sign where a connection leaves a lane, by three questions: does the lane go on downwards, is there a line to the
# left, is there a line to the right?
CORNERS = {
    (True, False, True): "├",
    (True, True, False): "┤",
    (True, True, True): "┼",
    (False, False, True): "╰",
    (False, True, False): "╯",
    (False, True, True): "┴",
}
DOT = "●"


# --- text ---------------------------------------------------------------------------------------------------


def text(nodes: Nodes) -> list[str]:
    """A row for each task, below the tasks that it follows and linked to them by lines: `├─●  TASK 3  after TASK 2`.

    A line runs from each task down to the last task that follows it. With too many lines side by side, tasks
    with the same neighbours share a row. If that does not help, a row shows its layer's number and no lines.
    """
    rows = _drawn(nodes, MOST_LANES) or _drawn(_bundled(nodes), MOST_LANES) or _layered(nodes)
    drawing = max((len(row.drawing) for row in rows), default=0)
    names = max((len(row.name) for row in rows), default=0)
    return [f"{row.drawing:<{drawing}}  {row.name:<{names}}  {row.after}".rstrip() for row in rows]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the drawing."""

    drawing: str
    name: str
    after: str


@dataclass
class Lanes:
    """The columns of a drawing, each with the task whose line runs down it."""

    tasks: list[str | None] = field(default_factory=list)
    above: str = ""

    def place(self, ending: set[str]) -> int:
        """The column for a task: that of one of the lines `ending` at it, else a free one."""
        for at, task in enumerate(self.tasks):
            if task in ending:
                return at
        for at, task in enumerate(self.tasks):
            # Right under another dot it would look as if it followed that task.
            if task is None and self.above[2 * at : 2 * at + 1] != DOT:
                return at
        self.tasks.append(None)
        return len(self.tasks) - 1

    def draw(self, at: int, before: set[str], ending: set[str]) -> str:
        """The row of a task in column `at` that follows `before`; the lines `ending` go no further."""
        joined = [column for column, task in enumerate(self.tasks) if task in before] + [at]
        first, last = min(joined), max(joined)
        row = ""
        for column, task in enumerate(self.tasks):
            if column == at:
                row += DOT
            elif task in before:
                row += CORNERS[task not in ending, first < column, column < last]
            elif task is not None:
                row += "│"
            else:
                row += "─" if first < column < last else " "
            row += "─" if first <= column < last else " "
        return row.rstrip()


def _drawn(nodes: Nodes, most: int) -> list[Row]:
    """The rows of the drawing, or none if it needs more lanes than `most`."""
    names = order(_before(nodes))
    last = {condition.task: name for name in names for condition in leaves(nodes[name].after)}
    lanes, rows = Lanes(), []
    for name in names:
        before = {condition.task for condition in leaves(nodes[name].after)}
        ending = {task for task in before if last[task] == name}
        at = lanes.place(ending)
        if len(lanes.tasks) > most:
            return []
        lanes.above = lanes.draw(at, before, ending)
        lanes.tasks = [None if task in ending else task for task in lanes.tasks]
        lanes.tasks[at] = name if name in last else None
        rows.append(Row(lanes.above, printable(name), after_words(nodes[name])))
    return rows


def _before(nodes: Nodes) -> dict[str, list[str]]:
    return {name: [condition.task for condition in leaves(node.after)] for name, node in nodes.items()}


def _bundled(nodes: Nodes) -> dict[str, Node]:
    """The job with one node for all tasks that share their conditions and their followers."""
    followers: dict[str, set[tuple[str, Condition]]] = {name: set() for name in nodes}
    for name, node in nodes.items():
        for condition in leaves(node.after):
            # Tasks in a join with others stay by themselves: which of them does what would be lost.
            alone = condition.task if is_nested(node.after) else ""
            followers[condition.task].add((name, Condition(alone, condition.outcome, condition.handles)))
    alike: dict[object, list[str]] = {}
    for name, node in nodes.items():
        alike.setdefault((frozenset(node.after), node.join, frozenset(followers[name])), []).append(name)
    bundle = {name: _together(names) for names in alike.values() for name in names}
    return {
        bundle[names[0]]: Node(_renamed(nodes[names[0]].after, bundle), nodes[names[0]].join)
        for names in alike.values()
    }


def _renamed(after: After, names: Mapping[str, str]) -> After:
    return tuple(
        dict.fromkeys(
            Condition(names[each.task], each.outcome, each.handles)
            if isinstance(each, Condition)
            else Joined(each.join, _renamed(each.conditions, names))
            for each in after
        )
    )


def _together(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)} tasks)"


def _layered(nodes: Nodes) -> list[Row]:
    layers: dict[str, int] = {}
    before = _before(nodes)
    names = order(before)
    for name in names:
        layers[name] = 1 + max((layers[task] for task in before[name]), default=0)
    width = len(str(max(layers.values(), default=0)))
    in_layers = sorted(names, key=lambda name: layers[name])
    return [Row(f"{layers[name]:>{width}}", printable(name), after_words(nodes[name])) for name in in_layers]


def after_words(node: Node) -> str:
    """`after TASK 1 finished, TASK 2`: outcomes other than success are named; `after TASK 1 and (TASK 2 or TASK 3)`."""
    after, join = outermost(node.after, node.join)
    if not after:
        return ""
    if is_nested(after):
        return f"after {_formula(after, join)}"
    words = _words(after)
    joined = "any of " if join is Join.ANY and len(words) > 1 else ""
    return f"after {joined}{', '.join(words)}"


def _words(after: After) -> list[str]:
    """Each condition in words, and joins among them in brackets; of many only the first."""
    words = [
        f"{printable(each.task)}{_outcome(each)}"
        if isinstance(each, Condition)
        else f"({_formula(each.conditions, each.join)})"
        for each in after
    ]
    return words if len(words) <= NAMED else [*words[: NAMED - 1], f"{len(words) - NAMED + 1} more"]


def _formula(after: After, join: Join) -> str:
    """The conditions of a join, and of those within it: `TASK 1 and (TASK 2 error or TASK 3)`."""
    return (" or " if join is Join.ANY else " and ").join(_words(after))


def _outcome(condition: Condition) -> str:
    outcome = "" if condition.outcome is Outcome.SUCCESS else f" {condition.outcome.value}"
    return f"{outcome} (handles it)" if condition.handles else outcome


# --- languages ----------------------------------------------------------------------------------------------


def mermaid(nodes: Nodes) -> list[str]:
    """The job as a Mermaid flowchart."""
    ids = _ids(nodes)
    lines = ["flowchart TD"]
    lines += [f'    {ids[name]}["{_entities(name)}{_entities(_joined(node))}"]' for name, node in nodes.items()]
    for condition, name in _edges(nodes):
        outcome = _outcome(condition).strip()
        lines.append(f"    {ids[condition.task]} -->{f'|{outcome}|' if outcome else ''} {ids[name]}")
    return lines


def dot(nodes: Nodes) -> list[str]:
    """The job as a Graphviz digraph."""
    ids = _ids(nodes)
    lines = ["digraph job {", "    node [shape=box];"]
    lines += [f'    {ids[name]} [label="{_escaped(name)}{_escaped(_joined(node))}"];' for name, node in nodes.items()]
    for condition, name in _edges(nodes):
        outcome = _outcome(condition).strip()
        attributes = f' [label="{outcome}"]' if outcome else ""
        lines.append(f"    {ids[condition.task]} -> {ids[name]}{attributes};")
    return [*lines, "}"]


FORMATS: dict[str, Callable[[Nodes], list[str]]] = {"text": text, "mermaid": mermaid, "dot": dot}


def _ids(nodes: Nodes) -> dict[str, str]:
    return {name: f"t{number}" for number, name in enumerate(nodes, 1)}


def _edges(nodes: Nodes) -> Iterator[tuple[Condition, str]]:
    for name, node in nodes.items():
        # In several joins of one task a condition may stand twice.
        for condition in dict.fromkeys(leaves(node.after)):
            yield condition, name


def _joined(node: Node) -> str:
    """How the arrows to a task are joined, where not all of them are needed."""
    after, join = outermost(node.after, node.join)
    if is_nested(after):
        return f" ({_formula(after, join)})"
    return " (any)" if join is Join.ANY and len(after) > 1 else ""


def _entities(name: str) -> str:
    """The text for a quoted Mermaid label: letters, digits and ` -.,()` as they are, all else by number."""
    return "".join(char if char.isalnum() or char in " -.,()" else f"#{ord(char)};" for char in name)


def _escaped(name: str) -> str:
    return printable(name).replace("\\", "\\\\").replace('"', '\\"')
