"""The InfluxDB writer: what it sends, when, and how its loop behaves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from collectors.errors import LedgerError, TargetError
from collectors.measurements import Row
from collectors.outputs.influx import InfluxWriter, State
from collectors.outputs.lines import status_line
from tests.support.fault_server import FaultServer, parse_line
from tests.support.outbox import MakeRig, PassedThrough, Rig, inline, outbox_factory
from tests.support.sending import fill, target_of, wall, writing
from tests.support.virtual_time import in_virtual_time, virtual_clock

START = 1_750_000_000
REPOSITORY = Path(__file__).resolve().parent.parent
__all__ = ["outbox_factory"]  # a fixture: importing it is using it


@pytest.fixture
def rig(outbox_factory: MakeRig) -> Rig:
    """An empty outbox."""
    return outbox_factory()


# -- what is sent and when it counts as sent -----------------------------------------------------


@in_virtual_time
async def test_what_is_due_is_stored_and_nothing_is_pending(rig: Rig) -> None:
    fill(rig, 50, models=3)

    async with FaultServer() as server, writing(server, rig) as writer:
        result = await writer.flush(wall())

        assert server.store == rig.expected()
        assert (result.sent, result.pending, result.state) == (50, 0, State.OK)
        assert server.request_sizes == [50]


@in_virtual_time
async def test_with_nothing_due_no_request_is_made(rig: Rig) -> None:
    async with FaultServer() as server, writing(server, rig) as writer:
        result = await writer.flush(wall())

        assert server.request_sizes == []
        assert result.state is State.OK


@in_virtual_time
async def test_each_row_is_sent_once_more_after_the_settle_time_and_then_no_more(rig: Rig) -> None:
    fill(rig, 3)

    async with FaultServer() as server, writing(server, rig) as writer:
        for seconds in (0, 599, 2, 601, 86_400):
            await asyncio.sleep(seconds)
            await writer.flush(wall())

        assert server.request_sizes == [3, 3]


@in_virtual_time
async def test_newest_rows_go_first_and_each_body_is_sorted_by_time(rig: Rig) -> None:
    fill(rig, 10)
    bodies: list[list[int]] = []

    async def note(lines: list[str]) -> None:
        bodies.append([parse_line(line).timestamp // 10**9 for line in lines])

    async with FaultServer() as server, writing(server, rig, batch_lines=4) as writer:
        server.on_write = note
        await writer.flush(wall())

    starts = [START + 300 * n for n in range(10)]
    assert bodies == [starts[6:], starts[2:6], starts[:2]]


@in_virtual_time
async def test_a_body_is_never_larger_than_its_limit(rig: Rig) -> None:
    fill(rig, 100)
    sizes: list[int] = []

    async def note(lines: list[str]) -> None:
        sizes.append(len("\n".join(lines).encode()))

    async with FaultServer() as server, writing(server, rig, batch_bytes=5_000) as writer:
        server.on_write = note
        await writer.flush(wall())

        assert max(sizes) <= 5_000
        assert server.store == rig.expected()


@in_virtual_time
async def test_a_row_that_cannot_become_a_line_is_set_aside_and_the_others_go(rig: Rig) -> None:
    fill(rig, 2)
    rig.add(START + 9_000, "m", 1)

    class Broken(PassedThrough):
        def due(self, target: int, limit: int, now: float) -> list[Row]:
            return [
                msgspec.structs.replace(row, values=()) if row.start == START + 9_000 else row
                for row in self.inner.due(target, limit, now)
            ]

    async with FaultServer() as server:
        writer = InfluxWriter(target_of(server), Broken(rig.outbox), inline, clock=virtual_clock)
        result = await writer.flush(wall())
        await writer.close()

        assert (result.sent, result.refused, result.pending) == (2, 1, 0)
        assert rig.dead_letters() == [("refused", "token_usage has 14 fields, the row has 0", "m")]
        assert len(server.store) == 2


@in_virtual_time
async def test_an_outbox_that_never_settles_ends_in_an_error_not_in_a_flood(rig: Rig) -> None:
    fill(rig, 1)
    rows = rig.outbox.due(rig.outbox.target("x", "y", "z"), 1, 0)

    class Forgetful(PassedThrough):
        def due(self, target: int, limit: int, now: float) -> list[Row]:
            return rows

        def acknowledge(self, target: int, rows: Sequence[Row], now: float) -> None:
            return

    async with FaultServer() as server:
        writer = InfluxWriter(target_of(server), Forgetful(rig.outbox), inline, clock=virtual_clock)
        with pytest.raises(LedgerError, match="keeps offering rows"):
            await writer.flush(wall())
        await writer.close()

        assert len(server.request_sizes) == 2


# -- the check -----------------------------------------------------------------------------------


@in_virtual_time
async def test_reachable_says_where_writes_go_and_stores_nothing(rig: Rig) -> None:
    async with FaultServer() as server, writing(server, rig) as writer:
        text = await writer.reachable()

        assert text == f"{server.url} takes writes to bucket 'tokens'"
        assert server.store == {}


@in_virtual_time
async def test_reachable_raises_what_to_do(rig: Rig) -> None:
    async with FaultServer() as server, writing(server, rig) as writer:
        server.token = "other"
        with pytest.raises(TargetError, match="does not accept INFLUXDB_TOKEN"):
            await writer.reachable()
    # The server is gone now.
    async with writing(server, rig) as writer:
        with pytest.raises(TargetError, match="out of reach: Connection refused"):
            await writer.reachable()


# -- gauges --------------------------------------------------------------------------------------


@in_virtual_time
async def test_gauges_are_stored_and_one_request_is_in_flight_at_a_time(rig: Rig) -> None:
    fill(rig, 100)
    line = status_line("exporter_status", {"host": "box"}, {"heartbeat": 1, "pending": 0}, 9)

    async with (
        FaultServer() as server,
        writing(server, rig, batch_lines=10) as writer,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(writer.flush(wall()))
        for _ in range(10):
            group.create_task(writer.send_gauges([line]))

    assert server.most_in_flight == 1
    assert server.store[("exporter_status", (("host", "box"),), 9)] == {
        "heartbeat": 1,
        "pending": 0,
    }
    assert writer.gauge_failures == 0


@in_virtual_time
async def test_a_failed_gauge_is_counted_and_held_back_while_the_target_rests(rig: Rig) -> None:
    fill(rig, 1)
    line = status_line("exporter_status", {"host": "box"}, {"heartbeat": 1}, 9)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.decide = lambda: "503"
        assert not await writer.send_gauges([line])
        await writer.flush(wall())
        requests = len(server.request_sizes)
        assert not await writer.send_gauges([line])

        assert writer.gauge_failures == 2
        assert len(server.request_sizes) == requests


def test_the_slow_client_library_is_imported_only_when_something_is_sent() -> None:
    code = "import sys, collectors.outputs.influx; print('influxdb_client' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )

    assert done.stdout == "False\n"


# -- the loop ------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_loop_sends_every_interval_give_or_take_a_tenth_and_when_woken(rig: Rig) -> None:
    stop = asyncio.Event()

    async with FaultServer() as server, writing(server, rig, interval=30) as writer:

        async def feed() -> None:
            for number in range(20):
                rig.add(START + 300 * number, "m", 1)
                await asyncio.sleep(100)
            rig.add(START, "woken", 1)
            writer.wake.set()
            await asyncio.sleep(1)
            stop.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(writer.run(stop))
            await feed()

        first = [size for size in server.request_sizes if size]
        assert len(first) >= 21
        assert rig.pending() == 0


@in_virtual_time
async def test_news_do_not_shorten_the_pause_after_a_failure(rig: Rig) -> None:
    fill(rig, 1)
    stop = asyncio.Event()

    async with FaultServer() as server, writing(server, rig) as writer:
        server.is_ping_broken = True
        server.decide = lambda: "503"
        async with asyncio.TaskGroup() as group:
            group.create_task(writer.run(stop))
            for _ in range(360):
                writer.wake.set()
                await asyncio.sleep(10)
            stop.set()

        # 5, 10, 20, 40, 80, 160, 320, 640 and 900 s, each give or take a quarter.
        assert len(server.times) <= 14


@in_virtual_time
async def test_the_loop_stops_at_once_although_a_request_hangs(rig: Rig) -> None:
    fill(rig, 1)
    stop = asyncio.Event()
    asked = asyncio.Event()

    async def note(lines: list[str]) -> None:
        asked.set()

    async with FaultServer() as server, writing(server, rig) as writer:
        server.on_write = note
        server.script.append("hang")
        async with asyncio.TaskGroup() as group:
            group.create_task(writer.run(stop))
            await asked.wait()
            started = asyncio.get_running_loop().time()
            stop.set()

        assert asyncio.get_running_loop().time() - started < 1
        assert rig.pending() == 1


@in_virtual_time
async def test_failure_and_recovery_are_logged_once_each(rig: Rig) -> None:
    fill(rig, 1)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.decide = lambda: "503"
        with capture_logs() as logs:
            for _ in range(4):
                await writer.flush(wall())
                await asyncio.sleep(60)
            server.decide = None
            await writer.flush(wall())

        news = [entry for entry in logs if entry["log_level"] != "debug"]
        assert [entry["event"] for entry in news] == ["influx.failed", "influx.recovered"]
        assert news[0]["pending"] == 1
        assert news[1]["after_s"] >= 240


@in_virtual_time
async def test_with_nothing_left_to_send_a_probe_finds_that_the_target_is_back(rig: Rig) -> None:
    fill(rig, 1)

    async with FaultServer() as server, writing(server, rig) as writer:
        server.script.append("reset_applied")
        server.script.append("reset_applied")
        server.script.append("reset_applied")
        await writer.flush(wall())
        [row] = rig.outbox.due(1, 10, wall())
        rig.outbox.acknowledge(1, [row], wall())
        await writer.flush(wall())

        assert writer.state is State.OK
        assert server.request_sizes == [1, 1, 1, 0]
