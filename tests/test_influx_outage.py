"""A week without a database, and the backlog of a first start, in seconds."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from itertools import pairwise

import pytest

from collectors.measurements import Row
from collectors.outputs.influx import State
from tests.support.fault_server import FaultServer
from tests.support.outbox import MakeRig, PassedThrough, Rig, outbox_factory
from tests.support.sending import fill, report, wall, writing
from tests.support.virtual_time import in_virtual_time

__all__ = ["outbox_factory"]  # a fixture: importing it is using it

DAY = 86_400
DOWN_FROM, DOWN_UNTIL = 1 * DAY, 8 * DAY


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak)])
@in_virtual_time
async def test_after_a_week_of_outage_and_three_restarts_nothing_is_missing(
    outbox_factory: MakeRig, seed: int
) -> None:
    rig = outbox_factory()
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    worst = 0

    async with FaultServer(seed=seed) as server:

        def is_down() -> bool:
            return DOWN_FROM <= loop.time() < DOWN_UNTIL

        def weather() -> str:
            server.is_ping_broken = is_down()
            if not is_down():
                return "ok"
            return rng.choice(["503", "503", "503_retry_after", "502", "hang", "reset"])

        server.decide = weather
        for days in (0.5, 3, 4.4, 1.1):  # a restart after each
            async with (
                writing(server, rig, rng=rng, interval=300) as writer,
                asyncio.TaskGroup() as group,
            ):
                stop = asyncio.Event()
                group.create_task(writer.run(stop))
                until = loop.time() + days * DAY
                while loop.time() < until:
                    for _ in range(rng.randrange(3)):
                        rig.add(
                            int(wall()) // 300 * 300, f"m{rng.randrange(3)}", rng.randrange(999)
                        )
                    await asyncio.sleep(300)
                worst = max(worst, rig.pending())
                stop.set()
            rig.reopen()
        async with writing(server, rig) as writer:
            await asyncio.sleep(700)
            result = await writer.flush(wall())

        during = [time for time in server.times if DOWN_FROM <= time < DOWN_UNTIL]
        pauses = [after - before for before, after in pairwise(during)]
        report(
            "D1",
            seed=seed,
            days=loop.time() / DAY,
            restarts=3,
            rows=len(rig.expected()),
            worst_backlog=worst,
            requests_in_outage=len(during),
        )
        assert server.store == rig.expected()
        assert (result.pending, result.state) == (0, State.OK)
        assert rig.dead_letters() == []
        assert worst > 1_000
        # A probe every 11 to 15 minutes, and a few quicker ones after each start.
        assert 600 <= len(during) <= 1_000
        assert max(pauses) <= 900 + 35


@pytest.mark.parametrize(
    ("fault", "header", "least", "most"),
    [
        ("429_retry_after", "600", 600, 601),
        ("503_retry_after", "600", 600, 601),
        ("503_retry_after", "Mon, 02 Nov 2026 00:10:00 GMT", 599, 601),
        ("503_retry_after", "315360000", 899, 901),
        ("429_retry_after", "Tue, 02 Nov 2126 00:00:00 GMT", 899, 901),
        ("503_retry_after", "9" * 400, 899, 901),
        ("503_retry_after", "soon", 0, 7),
        ("503_retry_after", "-5", 0, 7),
        ("503_retry_after", "Mon, 02 Nov 2020 00:00:00 GMT", 0, 7),
        ("503_retry_after", "", 0, 7),
    ],
)
@in_virtual_time
async def test_a_pause_that_is_asked_for_is_kept_up_to_a_quarter_of_an_hour(
    outbox_factory: MakeRig, fault: str, header: str, least: float, most: float
) -> None:
    rig = outbox_factory()
    fill(rig, 3)
    stop = asyncio.Event()

    async with FaultServer() as server, writing(server, rig) as writer:
        server.retry_after = header
        server.script += [fault]
        async with asyncio.TaskGroup() as group:
            group.create_task(writer.run(stop))
            await asyncio.sleep(1_000)
            stop.set()

        pause = server.times[1] - server.times[0]
        report("D3", header=header[:30], pause=round(pause, 1))
        assert least <= pause <= most
        assert server.store == rig.expected()


@in_virtual_time
async def test_an_address_where_nobody_listens_is_tried_ever_more_slowly(
    outbox_factory: MakeRig,
) -> None:
    rig = outbox_factory()
    fill(rig, 3)
    async with FaultServer() as server:
        pass  # its port is free again now
    tried: list[float] = []
    loop = asyncio.get_running_loop()

    class Watched(PassedThrough):
        def due(self, target: int, limit: int, now: float) -> list[Row]:
            tried.append(loop.time())
            return self.inner.due(target, limit, now)

    rig.outbox = Watched(rig.outbox)  # type: ignore[misc]
    stop = asyncio.Event()
    async with writing(server, rig) as writer, asyncio.TaskGroup() as group:
        group.create_task(writer.run(stop))
        await asyncio.sleep(DAY)
        stop.set()

    pauses = [after - before for before, after in pairwise(tried)]
    assert writer.state is State.UNREACHABLE
    assert "out of reach" in str(writer.error)
    assert pauses[0] < 20
    assert pauses[-1] >= 675
    assert max(pauses) <= 901
    assert len(tried) <= 140


@in_virtual_time
async def test_a_large_backlog_goes_out_in_bounded_batches_and_flat_memory(
    outbox_factory: MakeRig,
) -> None:
    rig = outbox_factory()
    count = 30_000
    fill(rig, count, models=20)
    largest = 0
    first_starts: list[int] = []

    class Watched(PassedThrough):
        def due(self, target: int, limit: int, now: float) -> list[Row]:
            nonlocal largest
            rows = self.inner.due(target, limit, now)
            largest = max(largest, len(rows))
            first_starts.extend(row.start for row in rows[:1])
            return rows

    rig.outbox = Watched(rig.outbox)  # type: ignore[misc]
    async with FaultServer() as server, writing(server, rig) as writer:
        server.is_storing = False
        rig.add(1, "m0", 1)
        await writer.reachable()  # imports and connection are not part of the figure
        tracemalloc.start()
        loop = asyncio.get_running_loop()
        before = loop.time()
        result = await writer.flush(wall())
        seconds = loop.time() - before
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    report("D18", rows=count, requests=len(server.request_sizes), peak_mb=round(peak / 1e6, 1))
    assert (result.sent, result.pending) == (count + 1, 0)
    assert largest <= 2_000
    assert max(server.request_sizes) <= 2_000
    assert first_starts == sorted(first_starts, reverse=True)
    assert peak < 12_000_000
    # Ten at once, then five a second: a million rows take 500 requests and 100 s.
    assert 1 <= seconds <= 4


def test_a_rig_is_what_the_writer_is_tested_with(outbox_factory: MakeRig) -> None:
    rig: Rig = outbox_factory(settle=5)
    rig.add(300, "m", 2)
    rig.add(300, "m", 3)
    number = rig.outbox.target("u", "o", "b")

    [row] = rig.outbox.due(number, 10, 0)
    rig.outbox.acknowledge(number, [row], 100)

    assert row.revision == 2
    assert rig.outbox.due(number, 10, 104) == []
    assert rig.outbox.due(number, 10, 105) == [row]
    assert rig.outbox.due(number, 10, 99) == [row]  # the clock was set back: due at once
