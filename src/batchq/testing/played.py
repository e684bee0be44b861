"""The result of a rehearsal: how a run went, in a form that reads well where an assertion fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

from batchq.core.states import LABELS
from batchq.errors import unknown
from batchq.testing.cast import Start
from batchq.views import RunView

SECONDS = "%Y-%m-%d %H:%M:%S %Z"


@dataclass(frozen=True, repr=False)
class Played:
    """How a run went: the state of each task, in the order of the job; the verdict; and the starts, in their order.

    `states` and `verdict` are the words of the database: `success`, `error`, `didnt_run`, `canceled`. The verdict of an
    open run is `executing`, and its `ended_at` is None. Instants are in the zone of the rehearsal's clock.
    """

    run: int
    job: str
    verdict: str
    states: Mapping[str, str]
    starts: Sequence[Start]
    ended_at: datetime | None
    _reasons: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, view: RunView, starts: Sequence[Start], timezone: tzinfo | None) -> Played:
        """Make the result from a run's view and its starts."""
        ended = view["ended_at"]
        return cls(
            run=view["run"],
            job=view["job"],
            verdict=view["status"],
            states={task["name"]: task["status"] for task in view["tasks"]},
            starts=starts,
            ended_at=datetime.fromisoformat(ended).astimezone(timezone) if ended else None,
            _reasons={task["name"]: task["why"] for task in view["tasks"]},
        )

    @property
    def order(self) -> list[str]:
        """The tasks in the order of their starts; a task appears once for each attempt."""
        return [start.task for start in self.starts]

    @property
    def started_at(self) -> dict[str, datetime]:
        """The instant of each task's first start."""
        return {start.task: start.at for start in reversed(self.starts)}

    def why(self, task: str) -> str | None:
        """Why the task waits or didn't run, in the words of `batchq runs show`; None if it started (rule 40).

        Raises NotFound for an unknown task.
        """
        if task not in self._reasons:
            raise unknown("task", task, self._reasons)
        return self._reasons[task]

    def __repr__(self) -> str:
        """`<JOB 1: error; success TASK 1, TASK 3; error TASK 2>`."""
        tasks: dict[str, list[str]] = {}
        for task, state in self.states.items():
            tasks.setdefault(state, []).append(task)
        said = "; ".join(f"{state} {', '.join(names)}" for state, names in tasks.items())
        return f"<{self.job}: {self.verdict}; {said}>"

    def __str__(self) -> str:
        """A line for the run and for each task: its state, its starts, and why it did not start."""
        ended = f" at {self.ended_at:{SECONDS}}" if self.ended_at else ""
        width = max(map(len, self.states))
        lines = [f"{self.job}: {LABELS[self.verdict]}{ended}"]
        for task, state in self.states.items():
            starts = "; ".join(f"{start.server} {start.at:{SECONDS}}" for start in self.starts if start.task == task)
            lines.append(f"  {task:{width}}  {LABELS[state]:10}  {starts or self._reasons[task] or ''}".rstrip())
        return "\n".join(lines)
