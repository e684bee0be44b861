"""The page for the person on call: a night on three servers is played, and each of its commands does what it says."""

from __future__ import annotations

from typing import Any

import pytest

from batchq.core.ends import Failure
from batchq.core.states import Reason
from support import book

PAGE = "docs/night.md"
NO_FILE = "FileNotFoundError: no rates for today: rates.csv"


@pytest.fixture
def say(batchq, monkeypatch, tmp_path) -> Any:
    """Run a command of the page, which must stand there word for word; returns what it printed."""
    monkeypatch.setenv("BATCHQ_USER", "olav")
    for name in ("night-servers.yaml", "night-job.yaml"):
        (tmp_path / name).write_text(book.file(name))

    def run(command: str) -> str:
        return str(batchq(*book.words(PAGE, command)).stdout)

    return run


def test_the_night_goes_as_the_page_tells(say, stage):
    # The evening.
    say("batchq apply night-servers.yaml")
    for server in ("AOS1", "AOS2", "AOS3"):
        stage.live(server, host="h", pid=412, life="life", pool=100, pool_kind="prefork")
    assert say("batchq submit night-job.yaml") == "Run 1 of NIGHT is submitted.\n"
    stage.advance()
    begin(stage, "ORDERS")
    stage.end("ORDERS")
    begin(stage, "RATES")
    stage.end("RATES", NO_FILE, classes=("FileNotFoundError", "OSError"), log="reading rates.csv")
    begin(stage, "NOTICE")
    stage.end("NOTICE")
    assert stage.view()["status"] == "error"

    # What failed?
    assert "NIGHT  Error" in say("batchq runs list --since 18:00 --status error")
    assert "RATES" in say("batchq task list --status error --since 18:00")
    assert NO_FILE in say("batchq task errors --since 18:00")
    assert "retries 1" in say("batchq task show last RATES")
    assert "reading rates.csv" in say("batchq task log last RATES")
    assert "INVOICES NO" in say("batchq task why last LEDGER")

    # Mend it.
    assert "would retry; tasks reset: 5" in say("batchq runs retry last --dry-run")
    assert "tasks reset: 5" in say('batchq runs retry last --reason "rates came at 22:40"')
    stage.advance()
    begin(stage, "RATES")
    stage.end("RATES")

    # Hold it.
    begin(stage, "INVOICES NO")
    assert "held" in say('batchq runs hold last --reason "the ledger is locked"')
    stage.end("INVOICES NO")
    assert started(stage) == []
    assert "run 1 is held (by olav" in say("batchq task why last LEDGER")
    say("batchq runs release last")
    stage.advance()

    # Stop one task.
    begin(stage, "INVOICES DE")
    assert "is being aborted" in say('batchq task abort last "INVOICES DE" --reason "hangs on a printer"')
    ((server, row),) = stage.running()
    stage.report(server, row, Failure(Reason.ABORTED, "aborted"))
    stage.advance()
    assert stage.states()["INVOICES DE"] == "canceled"
    assert stage.states()["LEDGER"] == "didnt_run"
    begin(stage, "NOTICE")
    stage.end("NOTICE")
    say('batchq task retry last "INVOICES DE" --lost --reason "no invoice was printed"')
    say('batchq task accept last "INVOICES DE" --reason "written by hand"')
    stage.advance()
    assert stage.states()["INVOICES DE"] == "success"

    # More threads for an hour, and a run that goes first.
    assert "8" in say('batchq server set AOS3 --threads 8 --until 07:30 --reason "late night"')
    say("batchq server set AOS3 --until now")
    assert "critical" in say("batchq runs set last --priority critical")
    stage.play()
    assert stage.view()["status"] == "success"

    # Who did what?
    told = say("batchq audit list --since 18:00")
    for reason in ("rates came at 22:40", "the ledger is locked", "hangs on a printer", "written by hand"):
        assert reason in told
    assert "rates came at 22:40" in say("batchq audit list --what retry")


def started(stage: Any) -> list[str]:
    """Let every server start what it can."""
    return [name for server in ("AOS1", "AOS2", "AOS3") for name in stage.start(server)]


def begin(stage: Any, task: str) -> None:
    """Let a server start this task, and others that may start with it."""
    executing = [row.name for _, row in stage.running()]
    assert task in [*executing, *started(stage)]
