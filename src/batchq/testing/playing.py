"""Play jobs to their end, in one call."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from batchq.errors import InvalidInput
from batchq.testing.clocked import START
from batchq.testing.played import Played
from batchq.testing.script import SOURCES, Durations, Failing, Servers, Source, document_of, job_of, scripts, set_up
from batchq.testing.stage import Stage


def play(
    job: Source,
    *,
    failing: Failing = (),
    on: Servers | None = None,
    at: datetime = START,
    durations: Durations | None = None,
) -> Played:
    """Rehearse a job to its end, on the real engine; its operations are not executed.

    `job` is a `Job`, a `JobSpec`, a file's path, or its text. `failing` names the tasks that fail at every attempt. As
    a mapping it gives a task the number of its failing attempts, one failure for all (`error`, `lost`, `timed out`), or
    a list with a failure for each of the first. `on` is a number of threads, servers by name, or a file with servers.
    The default is the servers of the job's own file, or else two of one thread each. The clock begins `at` this instant
    and jumps to the next event. `durations` are seconds for all tasks, or by task. A task without one takes its own
    `duration`, or a minute.

    Tasks are named `TASK`, `JOB / TASK`, or by their operation. Raises InvalidInput, NotFound for an unknown task, and
    Conflict for a job that does not end.
    """
    document = document_of(job)
    job_of(document)
    (played,) = play_all(document, failing=failing, on=on, at=at, durations=durations).values()
    return played


def play_all(
    jobs: Source | Iterable[Source],
    *,
    failing: Failing = (),
    on: Servers | None = None,
    at: datetime = START,
    durations: Durations | None = None,
) -> dict[str, Played]:
    """Rehearse several jobs together, all submitted when the clock begins; returns their results by name.

    The options are those of `play`. Raises InvalidInput for two jobs of one name.
    """
    sources = [jobs] if isinstance(jobs, SOURCES) else list(jobs)
    documents = [document_of(source) for source in sources]
    specs = [job for document in documents for job in document.jobs.values()]
    if len({job.name for job in specs}) < len(specs):
        raise InvalidInput("Two of these jobs have the same name.")
    written = scripts(specs, failing, durations)
    with Stage(set_up(on, documents), at=at) as stage:
        runs = [stage.submit(each.job, failing=each.failing, durations=each.durations) for each in written]
        stage.play()
        return {played.job: played for played in map(stage.played, runs)}
