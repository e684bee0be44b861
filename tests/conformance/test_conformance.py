"""The same project under `celery worker` and on a batch server: what can be seen is the same, or stands in a table."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery

from batchq import engine
from batchq.spec import loads
from conformance import host
from support.site import Site

# Those whose operation did not run; behind each of them a task waits for its success.
BEHIND = ("coroutine", "generator", "replaced")
IDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Meant(NamedTuple):
    """A difference that is meant: patterns of cases and of observations, and the reason."""

    cases: str
    observations: str
    reason: str


MEANT = (
    Meant("*", "request.ignore_result request.reply_to", "results are kept in SQL; no backend or client is sent one"),
    Meant("replaced", "*", "a task in its place would be none of the job's: an error that says so"),
    Meant("coroutine generator", "*", "nothing of it ran: an error, where Celery stores a success or stumbles"),
    Meant("rejects", "*", "there is no message to go anywhere else: an error"),
    Meant("exits is_*", "*", "any exception fails its attempt; its process goes on"),
    Meant("ignores", "end", "somebody has to say how the task ended: a success without a result"),
    Meant("*_its_process", "end", "what became of a process is told in words of our own"),
    Meant("stopped_hard", "*", "so is a passed limit, and once: Celery tells hooks of it as well, and receivers twice"),
    Meant("fails_oddly", "*", "the exception itself reaches the hooks, not what Celery could pickle of it"),
)


def under_celery(site: Site, pool: str, cases: list[str], env: dict[str, str]) -> dict[str, Any]:
    """How each case ended under Celery's own worker; sends one after the other."""
    argv = [sys.executable, "-m", "celery", "-A", "conformance.host", "worker", "-P", pool, "-c", "1", "-l", "INFO"]
    site._start("celery", argv, env)
    client = Celery("client", broker=site.broker_url, backend=env["HOST_BACKEND"], set_as_current=False)
    notes = Path(env["HOST_NOTES"])

    def over(case: str, result: Any) -> bool:
        told = notes.read_text() if notes.exists() else ""
        postrun = any(line["what"] == "task_postrun" for line in lines(told) if line["case"] == case)
        return result.ready() or (postrun and case in ("host.ignores", "host.rejects", "host.replaced"))

    ends = {}
    for case in cases:
        args, kwargs = host.ARGUMENTS[case]
        result = client.send_task(case, args, kwargs)
        site.wait_for(f"{case} to end under Celery", lambda case=case, result=result: over(case, result))
        ends[case] = end_of(result)
    site.stop("celery")
    client.close()
    return ends


def end_of(result: Any) -> Any:
    if not result.ready():
        return ["nothing"]
    value = result.result
    if result.failed():
        return ["error", f"{type(value).__name__}: {value}".replace(result.id, "…")]
    return [
        "success",
        json.loads(json.dumps(value, default=lambda v: v.isoformat() if isinstance(v, datetime) else str(v))),
    ]


def on_a_server(site: Site, pool: str, cases: list[str], env: dict[str, str]) -> dict[str, Any]:
    """How each case ended as a task of a job."""
    tasks = {
        case: {"run": case, "args": args, "kwargs": kwargs, "retries": host.RETRIES[case]}
        for case, (args, kwargs) in host.ARGUMENTS.items()
        if case in cases
    }
    tasks |= {f"behind {case}": {"run": "host.elsewhere", "after": f"host.{case}"} for case in BEHIND}
    if pool == "prefork":
        tasks |= {name: {"run": name, "retries": retries} for name, retries in host.OF_THE_JOB.items()}
    site.start_coordinator(**(env | {"HOST_NOTES": "/dev/null"}))
    site.start_server("AOS1", 1, pool=pool, **env)
    (job,) = loads(json.dumps({"job": "CASES", "tasks": tasks})).jobs.values()
    # Not by a command, which refuses what would not run.
    run = engine.submit(site.database, job)
    site.wait_end(run, 120)
    ends = {}
    for name, task in site.tasks(run).items():
        if name.startswith("behind "):
            ends[name] = task["status"]
            continue
        ends[name] = (
            ["success", task["result"]] if task["status"] == "success" else ["error", IDS.sub("…", task["error"])]
        )
    return ends


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def goes_on(told: list[dict[str, Any]], case: str) -> bool | None:
    """Whether the process that ran a case runs another after it, unless it was the last; None on the threads pool."""
    own = [at for at, line in enumerate(told) if line["place"] == "child" and line["case"] == case]
    later = {line["pid"] for line in told[own[-1] + 1 :] if line["place"] == "child"} if own else set()
    return (told[own[-1]]["pid"] in later or not later) if own else None


def observed(notes: Path, ends: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """What is seen of each case: how it ended, what was told in which order and where, and each single fact."""
    seen: dict[tuple[str, str], Any] = {}
    told = lines(notes.read_text())
    for case, end in ends.items():
        seen[case.removeprefix("host."), "end"] = end
        if (alive := goes_on(told, case)) is not None:
            seen[case.removeprefix("host."), "its process goes on"] = alive
    for line in told:
        case, what = line["case"].removeprefix("host."), line["what"]
        if "." in what or what in ("log", "argument", "sent", "ran", "current_task"):
            seen.setdefault((case, what), []).append(line["value"])
        elif what != "worker_process_init":
            seen.setdefault((case, f"told in the {line['place']} process"), []).append([what, line["value"]])
        else:
            seen[case, what] = line["place"]
    return seen


@pytest.fixture(scope="module", params=["prefork", "threads"])
def sides(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[tuple[str, str], Any], ...]]:
    """All that was observed under `celery worker`, and on a batch server."""
    pool = request.param
    cases = [name for name in host.RETRIES if pool == "prefork" or name not in host.PROCESSES_ONLY]
    with Site(tmp_path_factory.mktemp(pool), app="conformance.host") as site:
        site.start_broker()
        (site.folder / "results").mkdir()
        env = {"HOST_BACKEND": f"file://{site.folder / 'results'}", "CELERY_BROKER_URL": site.broker_url}
        notes = [site.folder / "celery.jsonl", site.folder / "batchq.jsonl"]
        plays = [
            play(site, pool, cases, env | {"HOST_NOTES": str(path)})
            for play, path in zip((under_celery, on_a_server), notes, strict=True)
        ]
        yield tuple(observed(path, ends) for path, ends in zip(notes, plays, strict=True))


def is_in(row: Meant, what: tuple[str, str]) -> bool:
    """Whether the row of the table speaks of this observation."""
    both = zip(what, (row.cases, row.observations), strict=True)
    return all(any(fnmatchcase(said, each) for each in patterns.split()) for said, patterns in both)


def test_nobody_sees_a_difference_but_those_that_are_meant(sides: tuple[dict[tuple[str, str], Any], ...]) -> None:
    celery, batchq = sides
    ours_alone = {*host.OF_THE_JOB, *(f"host.behind {case}" for case in BEHIND)}
    batchq = {what: seen for what, seen in batchq.items() if f"host.{what[0]}" not in ours_alone}
    observations = celery.keys() | batchq.keys()
    differences = {what for what in observations if celery.get(what) != batchq.get(what)}
    if any(case == "kills_its_process" for case, _ in observations):
        assert (batchq["plain", "its process goes on"], batchq["kills_its_process", "its process goes on"]) == (
            True,
            False,
        )
    assert batchq["plain", "task.received"] == [["host.plain", [1, "two"], ["three"], True, True]]
    unmeant = [what for what in sorted(differences) if not any(is_in(row, what) for row in MEANT)]

    assert len(observations) >= 60
    assert len(MEANT) <= 10
    said = [f"{what}\n celery {celery.get(what)}\n batchq {batchq.get(what)}" for what in unmeant]
    assert not said, "\n".join(said)
    if any(case == "exits" for case, _ in observations):  # on the pool that has all cases, each row is needed
        assert [row for row in MEANT if not any(is_in(row, what) for what in differences)] == []


def test_what_did_not_run_lets_nothing_start_behind_it(sides: tuple[dict[tuple[str, str], Any], ...]) -> None:
    _, batchq = sides
    assert {case: batchq[f"behind {case}", "end"] for case in BEHIND} == dict.fromkeys(BEHIND, "didnt_run")


def test_what_the_job_repeats_is_a_retry_for_hooks_and_receivers_and_fails_once(
    sides: tuple[dict[tuple[str, str], Any], ...],
) -> None:
    _, batchq = sides
    if ("fails_thrice", "end") not in batchq:
        pytest.skip("a death on the threads pool is the server's")
    ends = ("on_retry", "task_retry", "on_failure", "task_failure")
    told = [entry for entry in batchq["fails_thrice", "told in the child process"] if entry[0] in ends]
    assert [(what, seen[0]) for what, seen in told] == [
        *[("on_retry", "ValueError"), ("task_retry", "ValueError")] * 2,
        *[("on_failure", "ValueError"), ("task_failure", "ValueError")],
    ]
    assert batchq["stopped_hard", "told in the main process"] == [["task_failure", ["TimeLimitExceeded", [], True]]]
    assert [(what, seen[0]) for what, seen in batchq["dies_thrice", "told in the main process"]] == [
        *[("task_retry", "WorkerLostError")] * 2,
        ("task_failure", "WorkerLostError"),
    ]
