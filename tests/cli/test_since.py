"""`--since`: an instant, a time of day or a duration, read in the user's zone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from batchq.cli.fields import parse_since

NOW = datetime(2027, 10, 31, 1, 20, tzinfo=UTC)  # 02:20 in Oslo, for the second time

READ = [
    ("90", "2027-10-31T01:18:30Z"),
    ("5m", "2027-10-31T01:15Z"),
    ("1.5h", "2027-10-30T23:50Z"),
    ("30d", "2027-10-01T01:20Z"),
    ("18:00", "2027-10-30T16:00Z"),
    ("02:30", "2027-10-31T00:30Z"),
    ("02:30:10", "2027-10-31T00:30:10Z"),
    ("2027-10-30", "2027-10-29T22:00Z"),
    ("20271030", "2027-10-29T22:00Z"),
    ("2027-10-30T18:00", "2027-10-30T16:00Z"),
    ("2027-10-30 18:00", "2027-10-30T16:00Z"),
    ("2027-10-30T18:00-05:00", "2027-10-30T23:00Z"),
    ("2027-10-31T01:20Z", "2027-10-31T01:20Z"),
]


@pytest.mark.parametrize(("text", "begin"), READ, ids=[row[0] for row in READ])
def test_a_beginning_is_a_duration_a_time_of_day_or_an_instant(text, begin):
    read = parse_since(text, NOW, "Europe/Oslo")
    assert read == datetime.fromisoformat(begin)
    assert read.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("yesterday", "'yesterday' is no time. Write a time of day, 18:00; a duration back from now, 90, 5m, 1.5h"),
        ("", "'' is no time"),
        ("-5m", "'-5m' is no time"),
        ("25:00", "'25:00' is not a time of day. Hours go from 00 to 23"),
        ("9:00", "'9:00' is not a time of day. Write it as text, \"HH:MM\""),
        ("2027-12-24", "'2027-12-24' has not come yet"),
        ("9999999w", "'9999999w' is too long"),
    ],
)
def test_anything_else_is_refused_with_the_forms_that_there_are(text, fault):
    with pytest.raises(ValueError) as error:
        parse_since(text, NOW, "Europe/Oslo")
    assert str(error.value).startswith(fault)
