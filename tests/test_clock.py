"""Zones and calendar days."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.clock import EARLIEST_MS, Calendar, find_zone, is_plausible, system_clock
from collectors.errors import SettingsError

ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/St_Johns",
    "America/Havana",  # midnight happens twice
    "America/Santiago",  # midnight does not exist once a year
    "Africa/Cairo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # half an hour of summer time
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Asia/Gaza",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host without any zone."""
    (tmp_path / "etc").mkdir()
    return tmp_path


def localtime(root: Path, target: str) -> None:
    (root / "etc/localtime").symlink_to(target)


# -- which zone ------------------------------------------------------------------------------------


def test_the_setting_comes_before_tz_and_tz_before_the_host(root: Path) -> None:
    localtime(root, "/usr/share/zoneinfo/Asia/Tokyo")
    tz = {"TZ": "America/New_York"}

    assert str(find_zone("Europe/Berlin", tz, root)) == "Europe/Berlin"
    assert str(find_zone("", tz, root)) == "America/New_York"
    assert str(find_zone("", {}, root)) == "Asia/Tokyo"
    assert str(find_zone("", {"TZ": ""}, root)) == "Asia/Tokyo"


@pytest.mark.parametrize(
    ("target", "zone"),
    [
        ("../usr/share/zoneinfo/Europe/Paris", "Europe/Paris"),
        ("/var/db/timezone/zoneinfo/America/Argentina/Salta", "America/Argentina/Salta"),
        ("/usr/share/zoneinfo/UTC", "UTC"),
    ],
)
def test_the_hosts_zone_is_where_its_link_points(root: Path, target: str, zone: str) -> None:
    localtime(root, target)

    assert str(find_zone("", {}, root)) == zone


def test_a_host_without_a_link_may_name_its_zone_in_a_file(root: Path) -> None:
    (root / "etc/localtime").write_bytes(b"TZif2")
    (root / "etc/timezone").write_text("Europe/Madrid\n")

    assert str(find_zone("", {}, root)) == "Europe/Madrid"


@pytest.mark.parametrize("content", [None, b"", b"\xff"])
def test_a_host_that_says_nothing_is_in_utc(root: Path, content: bytes | None) -> None:
    if content is not None:
        (root / "etc/timezone").write_bytes(content)

    assert str(find_zone("", {}, root)) == "UTC"


@pytest.mark.parametrize(
    ("tz", "zone"),
    [
        (":Europe/Berlin", "Europe/Berlin"),
        ("/usr/share/zoneinfo/Europe/Rome", "Europe/Rome"),
        (":/usr/share/zoneinfo/posix/Europe/Rome", "posix/Europe/Rome"),
        ("/etc/localtime", "Asia/Tokyo"),
        (":/etc/localtime", "Asia/Tokyo"),
    ],
)
@pytest.mark.parametrize("is_setting", [True, False])
def test_the_posix_ways_to_write_tz_are_understood(
    root: Path, tz: str, zone: str, is_setting: bool
) -> None:
    if zone.startswith("posix") and not Path("/usr/share/zoneinfo/posix").exists():
        pytest.skip("this host has no posix/ zones")
    localtime(root, "/usr/share/zoneinfo/Asia/Tokyo")

    found = find_zone(tz, {}, root) if is_setting else find_zone("", {"TZ": tz}, root)

    assert str(found) == zone


@pytest.mark.parametrize(
    "name",
    [
        "Berlin",
        "Europe",
        "Europe/Nowhere",
        "../../etc/passwd",
        "/etc/passwd",
        "zone.tab",
        "a\0b",
        "CET-1CES",
        "é\udc80",
    ],
)
def test_what_is_no_zone_is_refused_with_an_example(root: Path, name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        find_zone(name, {}, root)

    assert str(caught.value).startswith("TZ is ")
    assert "Europe/Berlin" in caught.value.hint
    assert caught.value.exit_code == 2


# -- plausible clocks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("1970-01-01T00:00:30", False),
        ("2019-12-31T23:59:59", False),
        ("2020-01-01T00:00:00", True),
        ("2026-11-24T12:00:00", True),
        ("2199-12-31T23:59:59", True),
        ("2200-01-01T00:00:00", False),
        ("2262-04-12T00:00:00", False),
        ("9999-12-31T00:00:00", False),
    ],
)
def test_a_clock_is_trusted_between_2020_and_2200(moment: str, expected: bool) -> None:
    assert is_plausible(datetime.fromisoformat(moment).replace(tzinfo=UTC)) is expected


def test_the_systems_clock_is_aware_and_plausible() -> None:
    assert system_clock().tzinfo is UTC
    assert is_plausible(system_clock())


# -- days ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2027, 3, 28), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("Europe/Berlin", date(2026, 10, 26), 24),
        ("America/Santiago", date(2026, 9, 6), 23),  # starts at 01:00
        ("America/Havana", date(2026, 11, 1), 25),  # 00:30 happens twice
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        ("UTC", date(2026, 10, 25), 24),
    ],
)
def test_a_day_is_as_long_as_its_clocks_make_it(zone: str, day: date, hours: float) -> None:
    start, end = Calendar(ZoneInfo(zone)).day_range(day)

    assert (end - start) / 3600 == hours


@given(st.sampled_from(ZONES), st.dates(date(2020, 1, 2), date(2037, 12, 30)))
def test_days_follow_each_other_without_gap_or_overlap(zone: str, day: date) -> None:
    calendar = Calendar(ZoneInfo(zone))
    days = [day + timedelta(days=n) for n in range(-1, 2)]

    for today, tomorrow in pairwise(days):
        start, end = calendar.day_range(today)
        assert end == calendar.day_start(tomorrow)
        assert start < end
        assert calendar.day_of(start) == calendar.day_of(end - 1) == today


@settings(max_examples=300)
@given(st.sampled_from(ZONES), st.integers(EARLIEST_MS // 1000, 2_145_000_000))
def test_every_instant_lies_in_the_day_it_is_said_to_be_of(zone: str, moment: int) -> None:
    calendar = Calendar(ZoneInfo(zone))

    start, end = calendar.day_range(calendar.day_of(moment))

    assert start <= moment < end


@pytest.mark.parametrize(
    ("day", "week", "month"),
    [
        (date(2026, 11, 24), date(2026, 11, 23), date(2026, 11, 1)),  # Tuesday
        (date(2026, 11, 23), date(2026, 11, 23), date(2026, 11, 1)),  # Monday
        (date(2026, 11, 22), date(2026, 11, 16), date(2026, 11, 1)),  # Sunday
        (date(2026, 3, 1), date(2026, 2, 23), date(2026, 3, 1)),
        (date(2027, 1, 1), date(2026, 12, 28), date(2027, 1, 1)),
        (date(2028, 2, 29), date(2028, 2, 28), date(2028, 2, 1)),
    ],
)
def test_weeks_start_on_monday_and_months_on_the_first(day: date, week: date, month: date) -> None:
    calendar = Calendar(ZoneInfo("UTC"))

    assert calendar.period_start(day, "daily") == day
    assert calendar.period_start(day, "weekly") == week
    assert calendar.period_start(day, "monthly") == month
