"""Times are shown on the clock of the user: in the zone that they set, else in the machine's."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest

from batchq.cli.output import local, now_in
from batchq.core.windows import Window

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("UTC", ["11:00:05", "2026-01-30 23:30"]),
        ("Europe/Oslo", ["12:00:05", "00:30:00"]),
        ("Asia/Tokyo", ["20:00:05", "08:30:00"]),
    ],
)
def test_an_instant_is_told_in_the_zone_of_the_present_one_and_its_date_on_other_days(zone, shown):
    now = NOON.astimezone(ZoneInfo(zone))
    assert [local(iso, now) for iso in ("2026-01-31T11:00:05Z", "2026-01-30T23:30:00Z")] == shown
    assert local(None, now) == "–"


def test_the_present_instant_is_that_of_the_users_zone():
    assert now_in("Asia/Tokyo").tzinfo == ZoneInfo("Asia/Tokyo")
    assert now_in(None).tzinfo is not None


def test_every_table_follows_the_users_zone(batchq, batchq_json, stage, monkeypatch):
    stage.server("AOS1")
    stage.submit()
    stage.start("AOS1")
    monkeypatch.setenv("BATCHQ_TIMEZONE", "Pacific/Kiritimati")  # a day ahead of most
    submitted = datetime.fromisoformat(batchq_json("runs", "list")[0]["submitted_at"])
    there = f"{submitted.astimezone(ZoneInfo('Pacific/Kiritimati')):%H:%M:%S}"
    for words in (["runs", "list"], ["runs", "show", 1], ["job", "list"], ["job", "show", "JOB 1"]):
        assert there in batchq(*words).stdout
    started = datetime.fromisoformat(stage.view()["tasks"][0]["started_at"])
    there = f"{started.astimezone(ZoneInfo('Pacific/Kiritimati')):%H:%M:%S}"
    for words in (["task", "list", 1], ["task", "show", 1, "TASK 1"], ["task", "why", 1, "TASK 1"]):
        assert there in batchq(*words).stdout
    assert re.search(r"process .* since \d\d:\d\d:\d\d", batchq("server", "show", "AOS1").stdout)


def test_why_names_the_windows_zone_unless_the_user_has_set_one(batchq, stage, monkeypatch):
    hour = (datetime.now(UTC).hour + 12) % 24
    stage.server("AOS1", windows=[Window(time(hour), time((hour + 1) % 24), 1, "UTC")])
    stage.submit()
    words = [["task", "why", 1, "TASK 1"], ["group", "list"], ["status"], ["runs", "show", 1], ["task", "list", 1]]
    for command in words:
        assert f"{hour:02}:00 UTC (AOS1" in batchq(*command).stdout
    monkeypatch.setenv("BATCHQ_TIMEZONE", "Asia/Tokyo")
    for command in words:
        assert f"{(hour + 9) % 24:02}:00 Asia/Tokyo (AOS1" in batchq(*command).stdout
