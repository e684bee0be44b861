"""`batchq server window`: windows are added, listed, removed and previewed, and what is wrong changes nothing."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest

from batchq import actions, views
from batchq.core.windows import Window, threads_at
from batchq.store import server as servers

DAY = Window(time(8), time(18), 2, "Europe/Oslo")
NIGHT = Window(time(18), time(7, 30), 20, "Europe/Oslo")


def stored(stage):
    """The windows of AOS1, as text."""
    with stage.database.read() as tx:
        return [window["window"] for window in views.server_view(tx, "AOS1")["windows"]]


def lines(result):
    return result.stdout.splitlines()


# --- add ----------------------------------------------------------------------------------------------------


BASIC = ["--start", "08:00", "--end", "18:00", "--threads", 2]


@pytest.mark.parametrize(
    ("words", "window"),
    [
        (["--start", "18:00", "--end", "07:30", "--threads", 20], "18:00-07:30=20 UTC"),
        (
            ["--start", "18:00:30", "--end", "08:00", "--threads", 0, "--tz", "Asia/Tokyo"],
            "18:00:30-08:00=0 Asia/Tokyo",
        ),
        ([*BASIC, "--days", "tue, MON"], "08:00-18:00=2 UTC [mon,tue]"),
        ([*BASIC, "--days", "fri-mon"], "08:00-18:00=2 UTC [mon,fri,sat,sun]"),
        ([*BASIC, "--date", "2026-12-24"], "08:00-18:00=2 UTC [2026-12-24]"),
        (["--date", "2026-12-24", "--closed"], "00:00-00:00=0 UTC [2026-12-24]"),
        (["--date", "2026-12-24", "--closed", "--tz", "Europe/Oslo"], "00:00-00:00=0 Europe/Oslo [2026-12-24]"),
        (["18:00-07:30=20"], "18:00-07:30=20 UTC"),
        ([" 18:00 - 07:30 = 20  Europe/Oslo [mon-wed,sat]"], "18:00-07:30=20 Europe/Oslo [mon,tue,wed,sat]"),
        (["00:00-00:00=0 Europe/Oslo [2026-12-24]"], "00:00-00:00=0 Europe/Oslo [2026-12-24]"),
    ],
)
def test_a_window_is_added_by_options_or_in_one_text(batchq, stage, words, window):
    stage.server("AOS1", runs=False)
    assert lines(batchq("server", "window", "add", "AOS1", *words))[0] == f"server AOS1: window {window} added"
    assert stored(stage) == [window]


def test_a_window_without_a_zone_is_in_that_of_the_user_by_name(batchq, stage, monkeypatch):
    monkeypatch.setenv("BATCHQ_TIMEZONE", "America/New_York")
    stage.server("AOS1")
    batchq("server", "window", "add", "AOS1", "--start", "08:00", "--end", "12:00", "--threads", 1)
    batchq("server", "window", "add", "AOS1", "12:00-13:00=2")
    batchq("server", "set", "AOS1", "--window", "12:00-13:00=2")
    assert stored(stage) == ["12:00-13:00=2 America/New_York"]


def test_what_is_in_force_now_is_said(batchq, stage):
    stage.server("AOS1")
    said = lines(batchq("server", "window", "add", "AOS1", "00:00-00:00=3 UTC"))
    assert said[1:] == ["AOS1: open, 0 of 3 threads busy"]


def test_a_window_that_closes_a_server_takes_its_tickets_back(batchq, stage):
    stage.server("AOS1")
    stage.submit()
    assert stage.states()["TASK 1"] == "queued"
    said = lines(batchq("server", "window", "add", "AOS1", "00:00-00:00=0 UTC"))
    assert said[1] == "AOS1: closed, 0 of 0 threads busy"
    assert stage.states()["TASK 1"] == "ready"
    assert stage.start("AOS1") == []


# --- list and remove ----------------------------------------------------------------------------------------


def test_windows_are_listed_with_numbers_from_1(batchq, batchq_json, stage):
    stage.server("AOS1", windows=[DAY, NIGHT, Window(time(), time(), 0, "Europe/Oslo", None, date(2020, 12, 24))])
    head, *rows = lines(batchq("server", "window", "list", "AOS1"))
    assert re.split(r"\s{2,}", head) == ["NO.", "WINDOW", "NOTE"]
    assert [re.split(r"\s{2,}", row)[:2] for row in rows] == [
        ["1", "08:00-18:00=2 Europe/Oslo"],
        ["2", "18:00-07:30=20 Europe/Oslo"],
        ["3", "00:00-00:00=0 Europe/Oslo [2020-12-24]"],
    ]
    assert rows[2].endswith("day off")
    assert [(one["number"], one["date"]) for one in batchq_json("server", "window", "list", "AOS1")] == [
        (1, None),
        (2, None),
        (3, "2020-12-24"),
    ]
    assert "No windows" in batchq("server", "window", "list", stage.server("AOS2").name).stdout


@pytest.mark.parametrize(
    ("which", "left"),
    [
        (["2"], ["08:00-18:00=2 Europe/Oslo"]),
        (["08:00-18:00=2 Europe/Oslo"], ["18:00-07:30=20 Europe/Oslo"]),
        (["08:00 - 18:00=2 Europe/Oslo "], ["18:00-07:30=20 Europe/Oslo"]),
        (["--all"], []),
    ],
)
def test_a_window_is_removed_by_number_or_text_or_all_of_them(batchq, stage, which, left):
    stage.server("AOS1", windows=[DAY, NIGHT])
    assert "removed" in batchq("server", "window", "remove", "AOS1", *which).stdout
    assert stored(stage) == left


@pytest.mark.parametrize(
    ("which", "code", "said"),
    [
        (["3"], 3, "No window of AOS1 '3'. `batchq server window list AOS1` shows them."),
        (["0"], 3, "No window of AOS1 '0'"),
        (["99999999999999999999"], 3, "No window of AOS1"),
        (["08:00-18:00=3 Europe/Oslo"], 3, "(closest: '08:00-18:00=2 Europe/Oslo')"),
        (["tomorrow"], 3, "No window of AOS1 'tomorrow'"),
        ([], 2, "Give the number or the text of one window, or else --all."),
        (["1", "--all"], 2, "Give the number or the text of one window, or else --all."),
    ],
)
def test_what_cannot_be_removed_is_said_and_changes_nothing(batchq, stage, which, code, said):
    stage.server("AOS1", windows=[DAY, NIGHT])
    assert said in batchq("server", "window", "remove", "AOS1", *which, code=code).stderr
    assert stored(stage) == [str(DAY), str(NIGHT)]


def test_a_window_whose_zone_this_machine_no_longer_knows_can_still_be_removed(batchq, stage):
    stage.server("AOS1", windows=[DAY, NIGHT])
    with stage.database.write() as tx:
        tx.execute(servers.update(servers.ServerWindow).where(servers.WINDOW.threads == 2).values(timezone="Gone/Away"))
    batchq("server", "window", "preview", "AOS1")
    batchq("server", "window", "remove", "AOS1", "08:00-18:00=2 Gone/Away")
    assert stored(stage) == [str(NIGHT)]


# --- preview ------------------------------------------------------------------------------------------------


def preview(batchq, *words):
    return lines(batchq("server", "window", "preview", "AOS1", *words))


def test_a_preview_draws_a_bar_for_each_day_and_a_row_for_each_period(batchq, stage):
    stage.server("AOS1", windows=[DAY, NIGHT])
    assert preview(batchq, "--hours", 24, "--from", "2026-11-23T06:00+01:00") == [
        "AOS1 from Mon 2026-11-23 06:00 to Tue 2026-11-24 06:00, Europe/Oslo",
        "",
        "                00    03    06    09    12    15    18    21",
        "Mon 2026-11-23              ███·▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁████████████",
        "Tue 2026-11-24  ████████████",
        "    half hours  ▁ 2 threads  █ 20 threads  · none",
        "",
        "FROM                  TO                    UTC            LASTS        THREADS  NOTE",
        "Mon 2026-11-23 06:00  Mon 2026-11-23 07:30  05:00 – 06:30  1 h 30 min   20",
        "Mon 2026-11-23 07:30  Mon 2026-11-23 08:00  06:30 – 07:00  30 min 00 s  0        gap",
        "Mon 2026-11-23 08:00  Mon 2026-11-23 18:00  07:00 – 17:00  10 h 00 min  2",
        "Mon 2026-11-23 18:00  Tue 2026-11-24 06:00  17:00 – 05:00  12 h 00 min  20",
    ]


@pytest.mark.parametrize(
    ("day", "bar", "note"),
    [
        ("2027-03-28", "████  ████████", "clocks go forward: 02:00 CET is 03:00 CEST"),
        ("2026-10-25", "  ████████████··", "clocks go back: 03:00 CEST is 02:00 CET"),
    ],
)
def test_a_preview_marks_the_changes_of_the_clocks(batchq, stage, day, bar, note):
    stage.server("AOS1", windows=[Window(time(0), time(7), 4, "Europe/Oslo")])
    said = preview(batchq, "--hours", 10, "--from", f"{day}T00:00+01:00")
    (drawn,) = (line for line in said if "clocks change" in line)
    assert bar in drawn
    assert any(line.endswith(note) for line in said)


def test_a_change_of_the_clocks_in_the_very_first_instant_is_marked_and_in_the_last_is_not(batchq, stage):
    stage.server("AOS1", windows=[DAY])
    after = preview(batchq, "--hours", 2, "--from", "2027-03-28T01:00Z")
    before = preview(batchq, "--hours", 2, "--from", "2027-03-27T23:00Z")
    assert any("clocks go forward" in line for line in after)
    assert not any("clocks go" in line for line in before)


def test_a_preview_of_windows_of_several_zones_is_told_in_the_users(batchq, stage, monkeypatch):
    monkeypatch.setenv("BATCHQ_TIMEZONE", "America/New_York")
    stage.server("AOS1", windows=[DAY, Window(time(8), time(18), 2, "Asia/Tokyo")])
    assert preview(batchq, "--from", "2026-11-23T06:00")[0].endswith(", America/New_York")
    assert preview(batchq, "--from", "2026-11-23T06:00")[0].startswith("AOS1 from Mon 2026-11-23 06:00 to ")


def test_a_preview_says_when_the_server_could_start_nothing_anyway(batchq, stage):
    stage.server("AOS1", windows=[DAY], runs=False)
    assert "It is stopped now; this is what its windows allow." in preview(batchq)


def test_threads_of_one_height_share_their_legend(batchq, stage):
    stage.server("AOS1", windows=[Window(time(hour), time(hour + 1), hour + 1, "UTC") for hour in range(23)])
    (legend,) = (line for line in preview(batchq) if "half hours" in line)
    assert legend.split("  ")[-9:] == [
        "▁ 1 to 2 threads", "▂ 3 to 5 threads", "▃ 6 to 8 threads", "▄ 9 to 11 threads", "▅ 12 to 14 threads",
        "▆ 15 to 17 threads", "▇ 18 to 20 threads", "█ 21 to 23 threads", "· none",
    ]  # fmt: skip


@pytest.mark.parametrize("windows", [[], [DAY, NIGHT], [DAY, Window(time(20), time(4), 7, "Asia/Tokyo")]])
@pytest.mark.parametrize("begin", ["2026-11-22T13:00:30.5Z", "2027-03-27T22:00Z", "2026-10-24T12:00Z"])
def test_the_periods_of_a_preview_cover_the_time_without_holes(batchq_json, stage, windows, begin):
    stage.server("AOS1", threads=3, windows=windows)
    found = batchq_json("server", "window", "preview", "AOS1", "--hours", "50.5", "--from", begin)
    first = datetime.fromisoformat(begin)
    assert found[0]["start"] == views.iso(first)
    assert found[-1]["end"] == views.iso(first + timedelta(hours=50.5))
    assert [one["end"] for one in found[:-1]] == [one["start"] for one in found[1:]]
    assert all(list(one) == ["server", "start", "end", "threads", "override"] for one in found)
    for minute in range(0, 3030, 7):
        instant = first + timedelta(minutes=minute)
        (period,) = (one for one in found if one["start"] <= views.iso(instant) < one["end"])
        assert period["threads"] == threads_at(windows, 3, instant)


def test_without_an_instant_a_preview_begins_with_this_minute_and_goes_on_for_48_hours(batchq_json, stage):
    stage.server("AOS1")
    (one,) = batchq_json("server", "window", "preview", "AOS1")
    start, end = (datetime.fromisoformat(one[key]) for key in ("start", "end"))
    assert timedelta() <= datetime.now(UTC) - start < timedelta(minutes=2)
    assert end - start == timedelta(hours=48)


def test_a_preview_may_be_as_short_as_a_moment_and_as_long_as_400_days(batchq_json, stage):
    stage.server("AOS1", windows=[NIGHT])
    assert len(batchq_json("server", "window", "preview", "AOS1", "--hours", "0.000000001")) == 1
    assert len(batchq_json("server", "window", "preview", "AOS1", "--hours", 9600)) in (800, 801)


@pytest.mark.parametrize("hours", ["0", "-1", "9600.1", "nan", "inf", "two", ""])
def test_a_preview_of_no_length_is_refused(batchq, stage, hours):
    stage.server("AOS1")
    said = batchq("server", "window", "preview", "AOS1", "--hours", hours, code=2).stderr
    assert "Invalid value for '--hours'" in said
    assert "more than 0, and at most 9600" in said


@pytest.mark.parametrize("begin", ["yesterday", "2026-13-01", "0001-01-01", "9999-12-31T23:59", "25:00", ""])
def test_a_preview_from_no_instant_is_refused(batchq, stage, begin):
    stage.server("AOS1")
    said = batchq("server", "window", "preview", "AOS1", "--from", begin, code=2).stderr
    assert "Invalid value for '--from'" in said
    assert "Write it as 2026-12-24T18:00" in said


# --- what is wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["list"], ["preview"], ["remove", "--all"], ["add", "08:00-18:00=2 UTC"]])
def test_an_unknown_server_is_refused_with_the_closest(batchq, stage, words):
    stage.server("AOS1")
    command, *rest = words
    assert "No server 'AOS2' (closest: 'AOS1')." in batchq("server", "window", command, "AOS2", *rest, code=3).stderr


START, END, THREADS = ["--start", "18:00"], ["--end", "07:30"], ["--threads", 20]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--closed"], "--closed goes with --date, written as YYYY-MM-DD"),
        (["--closed", "--date", "2026-12-24", *THREADS], "--closed goes without --threads."),
        ([*START], "Missing --end, --threads. Give --start, --end and --threads"),
        ([], "Missing --start, --end, --threads."),
        (["--date", "2026-12-24"], "a day off is --date with --closed"),
        ([*START, *END, *THREADS, "--date", "2026-12-24", "--days", "mon"], "--date goes without --days"),
        (["18:00-07:30=20 UTC", *THREADS], "WINDOW goes without --threads."),
        (["18:00-07:30=20", "--tz", "UTC"], "WINDOW goes without --tz."),
        ([*START, *END, "--threads", "many"], "'many' is not a valid integer range"),
        ([*START, *END, "--threads", "100001"], "threads: 100001 is not allowed; use 0 to 100,000."),
        ([*START, *END, *THREADS, "--days", "mon-"], "Invalid value for '--days': '' is not a day"),
        ([*START, *END, *THREADS, "--days", "mo"], "Use mon, tue, wed, thu, fri, sat, sun."),
    ],
)
def test_options_that_do_not_go_together_are_refused(batchq, stage, words, said):
    stage.server("AOS1")
    assert said in " ".join(batchq("server", "window", "add", "AOS1", *words, code=2).stderr.split())
    assert stored(stage) == []


# Per mistake: what is wrong as (start, end, threads, zone, date), and what every refusal says.
GOOD = {"start": "18:00", "end": "07:30", "threads": "20", "timezone": "Europe/Oslo", "date": None}
WRONG = {
    "25:00": ({"start": "25:00"}, "Hours go from 00 to 23"),
    "24:00": ({"end": "24:00"}, 'Write midnight as "00:00"'),
    "8:00": ({"start": "8:00"}, '"HH:MM" or "HH:MM:SS"'),
    "an unknown zone": ({"timezone": "Europe/Olso"}, "(closest: 'Europe/Oslo'"),
    "an offset for a zone": ({"timezone": "+01:00"}, "Use an IANA name, such as 'Europe/Oslo'"),
    "threads below 0": ({"threads": "-1"}, "-1"),
    "too many threads": ({"threads": "100001"}, "100,000"),
    "no such date": ({"date": "2026-02-30"}, 'Write it as text, "YYYY-MM-DD"'),
    "a date of long ago": ({"date": "1066-10-14"}, "1970"),
    "an overlap": ({"start": "17:00", "end": "19:00"}, "overlap"),
}
FIELDS = {"start": "--start", "end": "--end", "threads": "--threads", "timezone": "--tz", "date": "--date"}


def by_options(said, folder):
    options = [word for key, value in said.items() if value is not None for word in (FIELDS[key], value)]
    return ["server", "window", "add", "AOS1", *options]


def as_text(said, folder):
    date = f" [{said['date']}]" if said["date"] else ""
    return f"{said['start']}-{said['end']}={said['threads']} {said['timezone']}{date}"


def by_text(said, folder):
    return ["server", "window", "add", "AOS1", as_text(said, folder)]


def by_set(said, folder):
    return ["server", "set", "AOS1", "--window", str(DAY), "--window", as_text(said, folder)]


def by_file(said, folder: Path):
    window = {key: value for key, value in said.items() if value is not None} | {"threads": int(said["threads"])}
    day = {"start": "08:00", "end": "18:00", "threads": 2, "timezone": "Europe/Oslo"}
    file = folder / "wrong.json"
    file.write_text(json.dumps({"servers": {"AOS1": {"windows": [day, window]}}}))
    return ["apply", file]


@pytest.mark.parametrize("way", [by_options, by_text, by_set, by_file])
@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_window_is_refused_with_its_field_and_the_allowed_form(batchq, stage, tmp_path, way, mistake):
    stage.server("AOS1", windows=[DAY])
    wrong, said = WRONG[mistake]
    error = " ".join(batchq(*way(GOOD | wrong, tmp_path), code=2).stderr.split())
    assert said in error
    (field,) = wrong if len(wrong) == 1 else ("windows",)
    named = {by_options: FIELDS.get(field, field), by_file: f"AOS1.windows{'.1' if field in FIELDS else ''}"}
    assert named.get(way, "window") in error or f"{field}: " in error
    assert stored(stage) == [str(DAY)]


def test_a_server_has_fifty_windows_at_most(stage):
    from batchq.errors import InvalidInput

    minutes = [Window(time(0, at), time(0, at + 1), 1, "UTC") for at in range(51)]
    stage.server("AOS1", windows=minutes[:50])
    with pytest.raises(InvalidInput, match="windows: a server has 50 at most, not 51"):
        actions.add_window(stage.database, "AOS1", minutes[50])


def test_who_removes_the_last_window_is_told_that_the_server_is_open_round_the_clock(batchq):
    Path("five.yaml").write_text("servers: {AOS1: {threads: 5}}", encoding="utf-8")
    batchq("apply", "five.yaml")
    batchq("server", "window", "add", "AOS1", "08:00-18:00=2 UTC")
    batchq("server", "window", "add", "AOS1", "--date", "2027-12-24", "--threads", 0, "--tz", "UTC")
    said = batchq("server", "window", "remove", "AOS1", 1).stdout
    assert said.splitlines()[-1] == "AOS1 has its 5 threads round the clock now."
