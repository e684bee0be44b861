"""The commands for operators do what the documentation says, and its preview is what is printed."""

from __future__ import annotations

import shlex
from types import SimpleNamespace

import pytest

from batchq import views
from support import book

PAGE = "docs/operations.md"


@pytest.fixture
def set_up(batchq, tmp_path):
    """The groups and servers of the documentation."""
    file = tmp_path / "setup.yaml"
    file.write_text(book.file("servers.yaml"))
    batchq("apply", file)


def test_every_command_for_operators_runs(batchq, batchq_json, set_up):
    for line in book.block(PAGE, "operate").splitlines():
        program, *words = shlex.split(line)
        assert program == "batchq"
        assert batchq(*words).stdout
    first, second = batchq_json("server", "list")
    assert (first["threads_without_windows"], first["groups"]) == (4, ["BG1"])
    assert [window["date"] for window in second["windows"]] == [None, "2026-12-24", None, None, "2026-12-31"]
    assert second["enabled"]
    assert [group["paused"] for group in batchq_json("group", "list")] == [False, False]


def test_the_preview_is_that_of_the_windows_above_it(batchq, set_up, monkeypatch):
    monkeypatch.setenv("BATCHQ_TIMEZONE", "Europe/Oslo")
    batchq("server", "window", "remove", "AOS2", 3)
    shown = batchq("server", "window", "preview", "AOS2", "--hours", 71, "--from", "2027-03-26").stdout
    assert book.block(PAGE, "preview") in shown


def test_the_python_for_operators_runs(stage, set_up):
    batch = SimpleNamespace(database=stage.database)
    exec(book.block("docs/python.md", "actions"), {"batch": batch})
    with stage.database.read() as tx:
        server = views.server_view(tx, "AOS1")
        assert server["windows"][0]["window"] == "18:00-07:30=20 Europe/Oslo"
        assert (server["override"]["threads"], server["override"]["why"]) == (10, "month end")
        assert views.groups(tx)[0]["paused"]


def test_every_command_that_holds_and_releases_runs(batchq, batchq_json, stage):
    stage.submit("{job: INVOICES, tasks: {A: {run: demo.work}}}")
    for command in (
        'batchq runs hold last --reason "the ledger is being checked"',
        "batchq runs release last",
        "batchq runs hold --job INVOICES --since 18:00 --dry-run",
        'batchq runs hold --job INVOICES --since 18:00 --yes --reason "wrong rates"',
        "batchq runs release --job INVOICES --yes",
        'batchq job hold INVOICES --reason "until the rates are right"',
        "batchq job release INVOICES",
        "batchq runs cancel last",
        "batchq audit list --since 1h",
    ):
        assert batchq(*book.words(PAGE, command)).stdout
    assert [line["what"] for line in batchq_json("audit", "list")] == [
        *("cancel", "release", "withhold", "release", "hold", "release", "hold"),
    ]
