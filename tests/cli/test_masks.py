"""A password in an address is told by no command, whether the address is good, wrong, or cannot even be read."""

from __future__ import annotations

import pytest

from batchq.config import masked

SECRET = "hunter2"
DATABASES = {
    "away": f"postgresql+psycopg://ops:{SECRET}@127.0.0.1:1/x",
    "in the query": f"postgresql+psycopg://127.0.0.1:1/x?user=ops&password={SECRET}",
    "with an @": f"postgresql+psycopg://ops:more@{SECRET}@127.0.0.1:1/x",
    "a port that is none": f"postgresql+psycopg://ops:x@127.0.0.1:{SECRET}/x",
    "of another kind": f"mysql://ops:{SECRET}@127.0.0.1/x",
    "of no kind": f"nothing://ops:{SECRET}@127.0.0.1/x",
    "of no folder": f"sqlite:////proc/none/x.db?key={SECRET}",
    "no address": f"{SECRET} {SECRET}",
}
BROKERS = {
    "away": f"redis://:{SECRET}@127.0.0.1:1/0",
    "several": f"redis://:{SECRET}@127.0.0.1:1/0;redis://:{SECRET}@127.0.0.1:2/0",
    "with an @": f"redis://:more@{SECRET}@127.0.0.1:1/0",
    "a port that is none": f"redis://127.0.0.1:{SECRET}/0",
    "a database that is none": f"redis://:{SECRET}@127.0.0.1:1/x",
    "AMQP": f"amqp://ops:{SECRET}@127.0.0.1:1//",
    "of no kind": f"nothing://ops:{SECRET}@127.0.0.1/0",
}
COMMANDS = ["submit good.yaml", "check", "check -o json", "db upgrade", "status", "run good.yaml"]


@pytest.fixture
def good(batchq, tmp_path, monkeypatch):
    (tmp_path / "good.yaml").write_text("job: GOOD\ntasks: {A: {run: demo.work}}\n")
    monkeypatch.delenv("CELERY_BROKER_URL")
    return monkeypatch


def told(batchq, *words: str) -> str:
    from click.testing import CliRunner

    from batchq.cli import cli

    ended = CliRunner().invoke(cli, words)
    assert ended.exception is None or isinstance(ended.exception, SystemExit), (words, ended.exc_info)
    assert ended.exit_code in (0, 1, 2, 4), ended.output
    assert "Traceback" not in ended.output
    return ended.output


@pytest.mark.parametrize("what", DATABASES)
def test_the_database_is_told_without_its_password(batchq, good, broker, what):
    good.setenv("BATCHQ_DATABASE_URL", DATABASES[what])
    good.setenv("CELERY_BROKER_URL", broker)
    for command in COMMANDS:
        assert SECRET not in told(batchq, *command.split())


@pytest.mark.parametrize("what", BROKERS)
def test_the_broker_is_told_without_its_password(batchq, good, what):
    good.setenv("CELERY_BROKER_URL", BROKERS[what])
    for command in COMMANDS:
        assert SECRET not in told(batchq, *command.split())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://ops:p@h:5432/x", "postgresql+psycopg://ops:***@h:5432/x"),
        ("postgresql+psycopg://h/x?password=p&user=ops", "postgresql+psycopg://h/x?password=***&user=ops"),
        ("sqlite:///x.db", "sqlite:///x.db"),
        ("redis://:p@h/0", "redis://:***@h/0"),
        ("postgresql://ops:p@q@h/x", "<url>"),
        ("what?", "<url>"),
    ],
)
def test_an_address_is_shown_but_for_its_password(url, shown):
    assert masked(url) == shown
