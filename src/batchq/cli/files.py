"""`batchq submit`, `validate` and `apply`: the commands that take job files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Required, TypedDict, TypeVar

import click

from batchq import actions, spec
from batchq.cli.context import batch, database, forward, names_app
from batchq.cli.fields import SECONDS
from batchq.cli.output import count, output_option, print_json, say
from batchq.cli.program import app_option
from batchq.cli.run import wait_for
from batchq.cli.wording import told
from batchq.errors import InvalidInput, unknown

if TYPE_CHECKING:
    from batchq.spec import Document, JobSpec

T = TypeVar("T")

PARTS: tuple[Literal["jobs", "tasks", "groups", "servers", "limits"], ...] = (
    "jobs",
    "tasks",
    "groups",
    "servers",
    "limits",
)
FILE = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=FILE)
@click.option("--job", metavar="NAME", help="Which job, where the file holds several.")
@click.option("--wait", is_flag=True, help="Show the run until it ends; exit with 1 unless it ends in success.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Wait so long at most, else exit 124.")
@app_option
@output_option
def submit(file: Path, job: str | None, wait: bool, timeout: float | None, output: str) -> None:
    """Start a run of the job in FILE.

    Limits, groups and servers in the file are left alone: `batchq apply` is for them.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait.")
    chosen = chosen_job(spec.load(file, spec.Sizes.of(batch().settings)), job, file)
    batch().check_operations(chosen)
    database()
    run = batch().submit(chosen)
    if output == "table":
        say(f"Run {run} of {chosen.name} is submitted.")
    elif not wait:
        print_json({"run": run, "job": chosen.name})
    if wait:
        wait_for(run, timeout, output)


@click.command()
@click.argument("files", type=FILE, nargs=-1, required=True, metavar="FILE...")
@app_option
@output_option
def validate(files: tuple[Path, ...], output: str) -> None:
    """Check job files; nothing is stored.

    Where an app is named, also that it knows every operation. Exits with 2 if a file is invalid.
    """
    views = [_validated(file) for file in files]
    if output == "json":
        print_json(views)
    for view in views if output == "table" else ():
        if view["valid"]:
            counts = ", ".join(count(view[part], part[:-1]) for part in PARTS if view[part])
            say(f"{view['file']}: valid, {counts or 'empty'}")
        for note in view["notes"]:
            say(f"Note: {note}", err=True)
        for error in view["errors"]:
            say(f"Error: {error}", err=True)
    if not all(view["valid"] for view in views):
        raise click.exceptions.Exit(InvalidInput.exit_code)


@click.command()
@click.argument("files", type=FILE, nargs=-1, required=True, metavar="FILE...")
@click.option("--dry-run", is_flag=True, help="Only print what would change.")
@click.option("--prune", is_flag=True, help="Also remove servers, groups and limits that the files do not name.")
@output_option
def apply(files: tuple[Path, ...], dry_run: bool, prune: bool, output: str) -> None:
    """Make limits, groups, servers and jobs as the files say, and print what that changes.

    All files together are one transaction. What they do not name stays as it is;
    with --prune, servers go if the files name any server, and groups and limits if they
    have any under `groups` or `limits`, unless one of them is in use: then nothing is changed.
    """
    settings = batch().settings
    document = together({file: spec.load(file, spec.Sizes.of(settings)) for file in files})
    changes = actions.apply(database(), document, dry_run, prune=prune, ahead=settings.tickets_ahead)
    if output == "json":
        print_json({"dry_run": dry_run, "changes": changes})
    else:
        for line in changes or ["Nothing to change."]:
            say(line)
    if changes and not dry_run:
        forward()


def chosen_job(document: Document, name: str | None, file: Path) -> JobSpec:
    """The job of that name in the file, or the only one; raises InvalidInput or NotFound."""
    if name is not None:
        if name not in document.jobs:
            raise unknown("job", name, document.jobs, advice=f"{file} does not hold it.")
        return document.jobs[name]
    if len(document.jobs) == 1:
        return next(iter(document.jobs.values()))
    if not document.jobs:
        raise InvalidInput(f"{file} holds no job.")
    names = list(document.jobs)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise InvalidInput(f"{file} holds {len(names)} jobs: {shown}. Choose one with --job.")


def together(documents: dict[Path, Document]) -> Document:
    """One document of several; raises InvalidInput if two of them define the same name."""
    whole = spec.Document.model_construct(limits={}, groups={}, servers={}, jobs={})
    for file, document in documents.items():
        _join(whole.limits, document.limits, f"{file}: limit")
        _join(whole.groups, document.groups, f"{file}: group")
        _join(whole.servers, document.servers, f"{file}: server")
        _join(whole.jobs, document.jobs, f"{file}: job")
    return whole


def _join(whole: dict[str, T], part: dict[str, T], said: str) -> None:
    if twice := whole.keys() & part.keys():
        raise InvalidInput(f"{said} {min(twice)!r} is in an earlier file too.")
    whole.update(part)


class Validated(TypedDict, total=False):
    """A checked file: its faults and notes, and its counts if it has no faults."""

    file: Required[str]
    valid: Required[bool]
    errors: Required[list[str]]
    notes: Required[list[str]]
    jobs: int
    groups: int
    servers: int
    limits: int
    tasks: int


def _validated(file: Path) -> Validated:
    from batchq.config import Settings  # it takes pydantic along, which no `--help` should wait for

    settings = batch().settings if names_app() else Settings.load()
    try:
        document = spec.load(file, spec.Sizes.of(settings))
        for job in document.jobs.values() if names_app() else ():
            batch().check_operations(job)
    except InvalidInput as error:
        return {"file": os.fspath(file), "valid": False, "errors": told(error).splitlines(), "notes": []}
    used = {operation for job in document.jobs.values() for operation in job.operations}
    note = batch().rate_limits(used) if names_app() else None
    return {
        "file": os.fspath(file),
        "valid": True,
        "errors": [],
        "notes": [note] if note else [],
        "jobs": len(document.jobs),
        "groups": len(document.groups),
        "servers": len(document.servers),
        "limits": len(document.limits),
        "tasks": sum(len(job.tasks) for job in document.jobs.values()),
    }
