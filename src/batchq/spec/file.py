"""The job file: from text to a `Document`, or to one line for each fault, with file, line and field."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from batchq.core.conditions import After
from batchq.errors import InvalidInput
from batchq.spec import faults, text
from batchq.spec.faults import MOST_FAULTS, Fault, faults_in, shown, unknown_keys
from batchq.spec.fields import USUAL_SIZES, Sizes, Units, conditions, has_join, name_fault, place_in
from batchq.spec.json_text import read_json
from batchq.spec.model import (
    JOIN_BESIDE,
    OF_GATES,
    Document,
    GroupSpec,
    JobSpec,
    ServerSpec,
    Spec,
    TaskSpec,
    WindowSpec,
    graph_faults,
    no_gate,
)
from batchq.spec.toml_text import read_toml
from batchq.spec.yaml_text import read_yaml

S = TypeVar("S", bound=Spec)
T = TypeVar("T")
Reader: TypeAlias = Callable[[str, int], text.Tree]

FORMATS = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
READERS: dict[str, Reader] = {"yaml": read_yaml, "toml": read_toml, "json": read_json}
LARGE = 1000  # tasks of a job
MOST_NAMES = 10_000  # of groups, of servers, of jobs
MOST_WINDOWS_IN_ALL = 2000
TOP = frozenset({"job", "jobs", "groups", "servers", "limits"})
UNITS: TypeAdapter[int] = TypeAdapter(Units)


def load(path: Path | str, sizes: Sizes = USUAL_SIZES) -> Document:
    """Read a file: `.toml` and `.json` as such, everything else as YAML.

    Raises InvalidInput, one line for each fault.
    """
    path = Path(path)
    source = str(path) if str(path).isprintable() else shown(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(sizes.file_bytes + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"{source}: cannot be read: {reason}.") from None
    return loads(content, source=source, format=FORMATS.get(path.suffix.lower(), "yaml"), sizes=sizes)


def loads(
    content: str | bytes, *, source: str = "<text>", format: str = "yaml", sizes: Sizes = USUAL_SIZES
) -> Document:
    """Read a text in `format`: `yaml`, `toml` or `json`; `source` is its name in messages.

    Raises InvalidInput, one line for each fault.
    """
    if format not in READERS:
        raise InvalidInput(f"no format {shown(format)}; use {', '.join(READERS)}.")
    with _uncollected():
        return _read(content, source, READERS[format], sizes)


def _read(content: str | bytes, source: str, reader: Reader, sizes: Sizes) -> Document:
    try:
        tree = reader(_decoded(content, sizes), sizes.tasks)
    except text.Unreadable as error:
        raise InvalidInput(_line(source, error.line, error.sentence)) from None
    reading = _Reading(source, tree, sizes)
    try:
        document = reading.document(tree.value)
    except _Enough:
        reading.refuse()
    if reading.faults:
        reading.refuse()
    return document


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which would take a third of the time of a large file, and find nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _decoded(content: str | bytes, sizes: Sizes) -> str:
    if len(content) > sizes.file_bytes:
        raise text.Unreadable(f"is larger than {sizes.file_bytes:,} bytes")
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    return text.decoded(content)


def _line(source: str, line: int | None, sentence: str) -> str:
    return f"{source}:{line}: {sentence}." if line else f"{source}: {sentence}."


class _Enough(Exception):
    """Enough faults are found: looking for more helps nobody."""


class _Reading:
    """One file on its way to a document, with the faults found so far."""

    def __init__(self, source: str, tree: text.Tree, sizes: Sizes) -> None:
        self.source = source
        self.tree = tree
        self.sizes = sizes
        self.windows = 0
        self.faults: dict[Fault, None] = {}

    def fault(self, found: Fault | Iterable[Fault], path: faults.Path = ()) -> None:
        """Note one fault or several, seen from `path`."""
        for each in [found] if isinstance(found, Fault) else found:
            self.faults[each.below(path)] = None
            if len(self.faults) == MOST_FAULTS:
                raise _Enough

    def refuse(self) -> NoReturn:
        placed = [(self.tree.line((*fault.path, *fault.inside)), str(fault)) for fault in self.faults]
        placed.sort(key=lambda place: place[0] or 0)
        lines = [_line(self.source, line, sentence) for line, sentence in placed]
        if len(lines) == MOST_FAULTS:
            lines.append(f"{self.source}: these are the first {MOST_FAULTS} faults, there may be more.")
        raise InvalidInput("\n".join(lines)) from None

    # --- the parts of a file, from the top down ---

    def document(self, root: object) -> Document:
        """The whole file; what it returns is good only while no fault is noted."""
        if root is not None and not isinstance(root, dict):
            self.fault(Fault((), f"must be a mapping with job, jobs, groups, servers or limits, not {shown(root)}"))
            return Document()
        root = root or {}
        self.count_tasks(root)
        limits = (
            {} if isinstance(root.get("limits"), list) and "job" in root else self.named(root, "limits", self.units)
        )
        groups = self.named(root, "groups", self.group)
        servers = self.named(root, "servers", self.server)
        jobs = self.named(root, "jobs", self.job) | self.only_job(root)
        if not (limits or groups or servers or jobs or self.faults):
            self.fault(Fault((), "holds no job, group, server or limit"))
        return Document.model_construct(limits=limits, groups=groups, servers=servers, jobs=jobs)

    def count_tasks(self, root: dict[str, object]) -> None:
        """Stop at more tasks than a file may hold, before any of them is looked at."""
        jobs = root.get("jobs")
        bodies = [root, *(jobs.values() if isinstance(jobs, dict) else ())]
        tasks = [body["tasks"] for body in bodies if isinstance(body, dict) and isinstance(body.get("tasks"), dict)]
        if sum(map(len, tasks)) > self.sizes.tasks:
            self.fault(Fault((), f"more than {self.sizes.tasks:,} tasks are not allowed"))
            raise _Enough

    def named(
        self, root: dict[str, object], part: str, make: Callable[[str, object, faults.Path], T | None]
    ) -> dict[str, T]:
        """Return one part of the file, by name."""
        forms = root.get(part)
        if forms is not None and not isinstance(forms, dict):
            self.fault(Fault((part,), f"must be a mapping of names, not {shown(forms)}"))
            return {}
        if len(forms or ()) > MOST_NAMES:
            self.fault(Fault((part,), f"more than {MOST_NAMES:,} {part} are not allowed"))
            return {}
        made = {}
        for name, form in (forms or {}).items():
            if fault := name_fault(name, self.sizes):
                self.fault(Fault((part, name), fault))
            elif (spec := make(name, form, (part, name))) is not None:
                made[name] = spec
        return made

    def only_job(self, root: dict[str, object]) -> dict[str, JobSpec]:
        """The job of a file that holds one, whose keys stand at the top."""
        form = {key: value for key, value in root.items() if key not in TOP}
        if isinstance(root.get("limits"), list):  # those that the job takes; a mapping makes limits
            form["limits"] = root["limits"]
        if "job" in root:
            name = root["job"]
            if "jobs" in root:
                self.fault(Fault(("jobs",), "cannot stand beside 'job'; put that job into 'jobs' too"))
            if not isinstance(name, str):
                self.fault(Fault(("job",), f"must be the job's name as text, not {shown(name)}"))
            elif fault := name_fault(name, self.sizes):
                self.fault(Fault(("job",), fault))
            elif spec := self.job(name, form, ()):
                return {name: spec}
        elif "tasks" in root:
            self.fault(Fault(("tasks",), "the job has no name; give it one with 'job' at the top"))
        else:
            self.fault(unknown_keys(form, TOP | {"tasks"}, JobSpec.later))
        return {}

    def job(self, name: str, form: object, path: faults.Path) -> JobSpec | None:
        if not isinstance(form, dict):
            self.fault(Fault(path, f"must be a mapping with tasks, not {shown(form)}"))
            return None
        tasks = form.get("tasks")
        if "tasks" not in form:
            self.fault(Fault(path, "'tasks' is missing; a job needs one at least", () if path else ("job",)))
        elif not isinstance(tasks, dict):
            self.fault(Fault((*path, "tasks"), f"must be a mapping of task names to tasks, not {shown(tasks)}"))
        specs = self.tasks(tasks, path) if isinstance(tasks, dict) else []
        rest = {key: value for key, value in form.items() if key != "tasks"}
        return self.made(JobSpec, rest, path, name=name, tasks=[STAND_IN] if self.faults else specs)

    def tasks(self, forms: dict[str, object], path: faults.Path) -> list[TaskSpec]:
        """The tasks of a job. The graph is checked first: in a large job with a fault there, nothing else is."""
        after = {name: self.after(form, (*path, "tasks", name)) for name, form in forms.items()}
        self.fault((_placed(fault, forms) for fault in graph_faults(after, self.sizes)), path)
        if self.faults and len(forms) > LARGE:
            raise _Enough
        specs = []
        for name, form in forms.items():
            if isinstance(form, str):
                form = {"run": form}
            self.fault(task_faults(form), (*path, "tasks", name))
            spec = self.made(TaskSpec, form, (*path, "tasks", name), name=name, after=after[name])
            if spec is not None and not self.faults:
                specs.append(spec)
        return specs

    def after(self, form: object, path: faults.Path) -> After:
        said = form.get("after") if isinstance(form, dict) else None
        try:
            return conditions(said)
        except faults.RuleBroken as error:
            self.fault(error.faults, (*path, "after"))
        except ValueError as error:
            self.fault(Fault((*path, "after"), str(error)))
        return ()

    def group(self, name: str, form: object, path: faults.Path) -> GroupSpec | None:
        return self.made(GroupSpec, form, path)

    def units(self, name: str, form: object, path: faults.Path) -> int | None:
        """The units of a limit."""
        try:
            return UNITS.validate_python(form)
        except ValidationError as error:
            self.fault(faults_in(error), path)
        return None

    def server(self, name: str, form: object, path: faults.Path) -> ServerSpec | None:
        windows = form.get("windows") if isinstance(form, dict) else None
        if not isinstance(windows, list):
            return self.made(ServerSpec, form, path)
        self.windows += len(windows)
        if self.windows > MOST_WINDOWS_IN_ALL:
            self.fault(
                Fault((*path, "windows"), f"more than {MOST_WINDOWS_IN_ALL:,} windows in a file are not allowed")
            )
            raise _Enough
        made = [self.made(WindowSpec, each, (*path, "windows", i)) for i, each in enumerate(windows)]
        if None in made:
            return None
        return self.made(ServerSpec, form, path, windows=made)

    def made(self, model: type[S], form: object, path: faults.Path, **given: object) -> S | None:
        """The `model` that a form and what is `given` make, or None and the reasons noted."""
        if form is None:
            form = {}
        if not isinstance(form, dict):
            self.fault(Fault(path, f"must be a mapping, not {shown(form)}"))
            return None
        known = KEYS[model]
        if not form.keys() <= known:
            self.fault(unknown_keys(form, known, model.later), path)
            form = {key: value for key, value in form.items() if key in known}
        try:
            return model.model_validate({**form, **given}, context=self.sizes)
        except ValidationError as error:
            self.fault((_unnamed(fault) for fault in faults_in(error)), path)
        return None


# Lets the rest of a job be looked at whose tasks are at fault.
STAND_IN = TaskSpec(name="STAND-IN", run="run")
KEYS: dict[type[Spec], frozenset[str]] = {
    model: frozenset(model.model_fields) - {"name"} for model in (GroupSpec, JobSpec, ServerSpec, TaskSpec, WindowSpec)
}


def task_faults(form: object) -> Iterator[Fault]:
    """Yield the faults of a task that only its form shows: keys beside others that make no sense there (rule 50)."""
    if not isinstance(form, dict):
        return
    if "run" in form and form["run"] is None:
        yield Fault(("run",), "must be text, not nothing")
    if "run" not in form:
        yield from (no_gate(key) for key in form if key in KEYS[TaskSpec] - OF_GATES)
    if "join" in form and has_join(form.get("after")):
        yield JOIN_BESIDE


def _placed(fault: Fault, forms: dict[str, object]) -> Fault:
    """The fault of a condition with its very place: it may stand in a join."""
    if len(fault.path) != 3:
        return fault
    form, (task,) = forms[str(fault.path[1])], fault.inside
    said = form.get("after") if isinstance(form, dict) else None
    return fault._replace(inside=place_in(said, str(task)) or fault.inside) if has_join(said) else fault


def _unnamed(fault: Fault) -> Fault:
    """The fault of a name, seen from the key that is the name in a file."""
    return fault._replace(path=()) if fault.path == ("name",) else fault
