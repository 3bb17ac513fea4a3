"""E: clocks that jump, start in 1970, change their zone, or count a day of 23 or 25 hours."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from collectors.clock import Calendar
from collectors.composition import Program
from collectors.daemon import StatusPublisher, opened
from collectors.insights.spend import windows
from collectors.ledger import reports
from collectors.ledger.files import open_reader
from collectors.ledger.reports import sums_between
from collectors.ledger.store import Ledger
from collectors.outputs.status import StatusRows
from tests import engines
from tests.support.collecting import Scripted, environment, finding
from tests.support.daemons import started, until
from tests.support.fault_server import BUCKET, ORG, TOKEN, FaultServer
from tests.support.ledgers import LATEST, ClaudeHome, open_ledger, point, store

STEPS = ("-1h", "+400d", "-1h")
BERLIN = Calendar(ZoneInfo("Europe/Berlin"))


def report(fault: str, **figures: Any) -> None:
    """One line of evidence."""
    print(json.dumps({"fault": fault, **figures}))


def target(server: FaultServer) -> dict[str, str]:
    return {
        "INFLUXDB_URL": server.url,
        "INFLUXDB_TOKEN": TOKEN,
        "INFLUXDB_ORG": ORG,
        "INFLUXDB_BUCKET": BUCKET,
        "INFLUXDB_INTERVAL": "0.3",
        "INFLUXDB_SETTLE": "600",
    }


# -- E1: steps while running -----------------------------------------------------------------------


def faketime(file: Path) -> dict[str, str]:
    """What lets a file say what time it is; the monotonic clock goes on as it is."""
    engines.need("faketime")
    for folder in ("/usr/lib", "/usr/local/lib", "/opt/homebrew/lib"):
        for library in sorted(Path(folder).glob("**/libfaketime.so.1")):
            return {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(file),
                "FAKETIME_NO_CACHE": "1",
                "DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
            }
    pytest.skip("libfaketime.so.1 is not where faketime is")


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with FaultServer() as found:
        yield found


def requests(folder: Path) -> int:
    db = open_reader(folder / "data" / "ledger.db")
    try:
        return int(db.execute("SELECT coalesce(sum(requests), 0) FROM bucket").fetchone()[0])
    finally:
        db.close()


def stored(server: FaultServer) -> int:
    return sum(
        int(fields["requests"])
        for (name, _, _), fields in server.store.items()
        if name == "token_usage"
    )


async def test_e1_steps_of_the_wall_clock_stop_neither_reading_nor_sending(
    tmp_path: Path, server: FaultServer
) -> None:
    file = tmp_path / "time"
    file.write_text("+0")
    home = ClaudeHome(tmp_path)
    environ = environment(tmp_path, LOCAL_INTERVAL="0.1", LOG_FORMAT="json", **target(server))
    loop = asyncio.get_running_loop()
    longest = 0.0
    calls = 0

    async with started({**environ, **faketime(file)}) as daemon:
        await daemon.ready()
        for step in STEPS:
            file.write_text(step)
            home.append(10)
            calls += 10
            written = loop.time()
            await until(lambda: stored(server) == calls, 20)  # noqa: B023 - used at once
            longest = max(longest, loop.time() - written)
        ended = await daemon.stop()

    db = open_reader(tmp_path / "data" / "ledger.db")
    lost, doubled = home.differences(db)
    days = {day for (day,) in db.execute("SELECT DISTINCT start / 86400 FROM bucket")}
    db.close()
    report("E1", steps=len(STEPS), lost=lost, double=doubled, longest_seconds=round(longest, 2))
    assert (lost, doubled, ended.code) == (0, 0, 0)
    assert longest < 10  # an hour or 400 days it is not; libfaketime itself costs seconds
    # Buckets are those of the events, whatever the clock said.
    first = datetime(2026, 3, 1, tzinfo=UTC).timestamp() // 86_400
    assert days <= {first + n for n in range(7)}


async def test_e1_the_steps_catch_intervals_by_the_wall_clock(tmp_path: Path) -> None:
    file = tmp_path / "time"
    file.write_text("+0")
    home = ClaudeHome(tmp_path)
    environ = environment(tmp_path, LOCAL_INTERVAL="0.1", LOG_FORMAT="json")

    async with started({**environ, **faketime(file)}, mutant="by_wall_clock") as daemon:
        await daemon.ready()
        file.write_text("-1h")
        home.append(10)
        with suppress(TimeoutError):  # a run that was under way may still see these
            await until(lambda: requests(tmp_path) == 10, 1)
        home.append(10)
        with pytest.raises(TimeoutError):
            await until(lambda: requests(tmp_path) == 20, 3)


class NeverBack(StatusRows):
    """The mutant: what was once stamped ahead keeps everything after it there."""

    def rows(self, now: datetime, *rest: Any) -> Any:
        latest = datetime.fromtimestamp(self._latest_slot + 60, UTC)
        return super().rows(max(now, latest), *rest)


def stamps(kind: type[StatusRows]) -> list[int]:
    """Minutes from the true time at which gauges are stamped, while the clock leads and returns."""
    maker = kind("h", 0, "UTC", "1")
    true = datetime(2026, 3, 10, 12, tzinfo=UTC)
    found = []
    for minute, error in enumerate([timedelta(), timedelta(days=400), timedelta(), timedelta()]):
        now = true + timedelta(minutes=minute)
        [row] = maker.rows(now + error, [], {}, _STATE)
        found.append(round((row.timestamp_ns / 1e9 - now.timestamp()) / 60))
    return found


class _State:
    pending = dead_letters = unpriced_tokens = uptime_s = db_bytes = 0


_STATE: Any = _State()


def test_e1_gauges_return_to_the_true_time_with_the_clock() -> None:
    right, wrong = stamps(StatusRows), stamps(NeverBack)

    assert right == [-1, 400 * 1440 - 1, -1, -1]
    assert wrong[2:] != right[2:]  # the mutant stays ahead for more than a year


# -- E2: a clock that cannot be true ---------------------------------------------------------------


@pytest.mark.parametrize("year", [1970, 2262])
async def test_e2_with_an_impossible_clock_logs_are_counted_and_gauges_are_not_stamped(
    tmp_path: Path, server: FaultServer, year: int
) -> None:
    home = ClaudeHome(tmp_path)
    home.append(30)
    now = [datetime(year, 1, 1, 0, 0, 30, tzinfo=UTC)]
    program = Program(environment(tmp_path, **target(server)), home=tmp_path, clock=lambda: now[0])

    async with opened(program) as exporter:
        exporter.connect()
        outcome = await exporter.once()
        publisher = StatusPublisher(exporter)
        impossible = await publisher.lines()
        now[0] = datetime(2026, 3, 10, 12, tzinfo=UTC)
        afterwards = await publisher.lines()
        differences = home.differences(exporter.ledger.ledger.db)

    assert differences == (0, 0)
    assert [item.error for item in outcome.health if item.runs] == [""]
    assert impossible == []
    assert {name for name, _, _ in server.store} <= {"token_usage", "token_usage_daily"}
    assert any(line.startswith("exporter_status,") for line in afterwards)


async def test_e2_the_check_of_the_clock_is_what_keeps_1970_out(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collectors.daemon.is_plausible", lambda _now: True)  # the mutant
    start = datetime(1970, 1, 1, 0, 5, tzinfo=UTC)
    program = Program(environment(tmp_path, **target(server)), home=tmp_path, clock=lambda: start)

    async with opened(program) as exporter:
        exporter.connect()
        await exporter.once()

    assert any(time < 10**18 for _, _, time in server.store)


# -- E3: days of other lengths ---------------------------------------------------------------------


class DaysOf24Hours(Calendar):
    """The mutant: every day has 24 hours."""

    def day_range(self, day: date) -> tuple[int, int]:
        start = self.day_start(day)
        return start, start + 86_400


def sum_of_days(ledger: Ledger, calendar: Calendar, first: date, count: int) -> int:
    days = [first + timedelta(days=n) for n in range(count)]
    return sum(
        usage.requests
        for day in days
        for usage in sums_between(ledger.db, *calendar.day_range(day)).values()
    )


@pytest.fixture
def hourly(tmp_path: Path) -> Any:
    """A ledger with one call in each hour around both changes of the clock."""
    ledger = open_ledger(tmp_path / "ledger.db", clock=lambda: 1.9e9)
    for day in (datetime(2026, 10, 24, tzinfo=UTC), datetime(2027, 3, 27, tzinfo=UTC)):
        calls = [point(f"{day} {n}") for n in range(72)]
        for number, call in enumerate(calls):
            call.timestamp = day + timedelta(hours=number, minutes=30)
        store(ledger, *calls, source=LATEST)
    yield ledger
    ledger.close()


def test_e3_the_sum_of_days_is_the_total_when_clocks_change(hourly: Ledger) -> None:
    autumn = sum_of_days(hourly, BERLIN, date(2026, 10, 23), 6)
    spring = sum_of_days(hourly, BERLIN, date(2027, 3, 26), 6)
    total = reports.total_of(reports.report(hourly.db, BERLIN)).requests
    wrong = DaysOf24Hours(BERLIN.zone)

    report("E3", sum_of_days=autumn + spring, total=total)
    assert (autumn, spring, total) == (72, 72, 144)
    assert sum_of_days(hourly, wrong, date(2026, 10, 23), 6) == 71  # the hour that came twice
    assert sum_of_days(hourly, wrong, date(2027, 3, 26), 6) == 73  # the hour that never was


@pytest.mark.parametrize(
    ("zone", "today", "yesterday"),
    [("Europe/Berlin", 1, 1), ("UTC", 1, 1), ("Asia/Tokyo", 2, 0), ("America/Sao_Paulo", 1, 1)],
)
def test_e3_a_change_of_zone_moves_days_and_no_record(
    tmp_path: Path, zone: str, today: int, yesterday: int
) -> None:
    ledger = open_ledger(tmp_path / "ledger.db", clock=lambda: 1.9e9)
    calls = [point("a"), point("b")]
    calls[0].timestamp = datetime(2026, 3, 9, 16, tzinfo=UTC)  # Tokyo: the 10th, 01:00
    calls[1].timestamp = datetime(2026, 3, 10, 11, tzinfo=UTC)
    store(ledger, *calls, source=LATEST)
    before = ledger.db.execute("SELECT timestamp_ms, bucket FROM record").fetchall()
    ledger.close()

    ledger = open_ledger(tmp_path / "ledger.db", zone=zone, clock=lambda: 1.9e9)
    now = datetime(2026, 3, 10, 12, tzinfo=UTC)
    found = {
        name: sum(usage.requests for usage in sums_between(ledger.db, *window).values())
        for name, window in windows(now, ledger.calendar).items()
    }
    after = ledger.db.execute("SELECT timestamp_ms, bucket FROM record").fetchall()
    ledger.close()

    assert (found["today"], found["yesterday"]) == (today, yesterday)
    assert after == before


# -- E5: confirmations from the future -------------------------------------------------------------


async def confirmations(tmp_path: Path, server: FaultServer, *, is_mutant: bool) -> int:
    """Requests after the clock went back a day behind an acknowledgement."""
    now = [datetime(2026, 3, 10, 12, tzinfo=UTC)]
    settings = {**target(server), "INFLUXDB_SETTLE": "600"}
    program = Program(environment(tmp_path, **settings), home=tmp_path, clock=lambda: now[0])
    program.registry.collectors[:] = [Scripted(finding("a"), name="api")]
    async with opened(program) as exporter:
        exporter.connect()
        await exporter.once()
        assert exporter.writer is not None
        sent = len(server.request_sizes)
        if is_mutant:  # waits for the settle time by the clock of now, however long that is
            outbox = exporter.ledger.ledger.outbox
            right = outbox.due
            outbox.due = lambda target, limit, now: [  # type: ignore[method-assign]
                row for row in right(target, limit, now) if _is_dirty(outbox, row)
            ]
        now[0] -= timedelta(days=1)
        await exporter.writer.flush(now[0].timestamp())
        await exporter.writer.close()
        return len(server.request_sizes) - sent


def _is_dirty(outbox: Any, row: Any) -> bool:
    return bool(outbox._db.execute("SELECT 1 FROM sent WHERE revision > sent_revision").fetchone())


async def test_e5_a_confirmation_that_lies_in_the_future_is_due_at_once(
    tmp_path: Path, server: FaultServer
) -> None:
    assert await confirmations(tmp_path, server, is_mutant=False) == 1


async def test_e5_the_step_back_catches_confirmations_that_wait_for_the_future(
    tmp_path: Path, server: FaultServer
) -> None:
    assert await confirmations(tmp_path, server, is_mutant=True) == 0


# -- E6: windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "today", "month"),
    [
        ("2026-12-31T23:59:59", "2026-12-31", "2026-12-01"),
        ("2027-01-01T00:00:00", "2027-01-01", "2027-01-01"),
        ("2028-02-29T12:00:00", "2028-02-29", "2028-02-01"),
        ("2028-03-01T00:00:00", "2028-03-01", "2028-03-01"),
        ("2016-12-31T23:59:59", "2016-12-31", "2016-12-01"),  # a leap second followed
    ],
)
def test_e6_windows_begin_where_their_day_and_month_do(text: str, today: str, month: str) -> None:
    now = datetime.fromisoformat(text).replace(tzinfo=UTC)

    found = windows(now, Calendar(ZoneInfo("UTC")))

    assert datetime.fromtimestamp(found["today"][0], UTC).isoformat()[:10] == today
    assert datetime.fromtimestamp(found["month"][0], UTC).isoformat()[:10] == month
    assert found["today"][1] - found["today"][0] == 86_400


def test_the_environment_of_these_tests_names_no_faked_clock() -> None:
    assert not [name for name in os.environ if re.match("FAKETIME|LD_PRELOAD", name)]
