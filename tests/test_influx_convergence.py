"""Whatever goes wrong on the way, InfluxDB ends up with what the ledger holds.

Data lands during requests, buckets go cold, passes are cut off anywhere, requests are applied late
over newer data. Each mutant is a mistake of existing shippers that the same run must catch.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from tests.support.fault_server import FAULTS, FaultServer, parse_line
from tests.support.outbox import MUTANTS, MakeRig, Rig, outbox_factory
from tests.support.sending import report, wall, writing
from tests.support.virtual_time import in_virtual_time

__all__ = ["outbox_factory"]  # a fixture: importing it is using it

SEEDS = range(1, 6)
SETTLE = 600.0


@dataclass
class Outcome:
    """What one run came to."""

    buckets: int
    differing: int
    requests: int
    dead: int


async def run_with_faults(rig: Rig, seed: int, faults: Sequence[str], steps: int = 40) -> Outcome:
    """Feed, send and cut off at random while the server misbehaves; then let it settle."""
    rng = random.Random(seed)
    start = 1_750_000_000
    async with FaultServer(seed=seed, rate=0.5, faults=faults, late_seconds=200) as server:

        async def land_in_flight(lines: list[str]) -> None:
            """Something new for a bucket of this very request."""
            if lines and rng.random() < 0.3:
                point = parse_line(rng.choice(lines))
                rig.add(point.timestamp // 10**9, dict(point.tags)["model"], rng.randrange(1, 99))

        server.on_write = land_in_flight
        for _ in range(steps):
            start += 300 * rng.randrange(3)  # time moves on, so that buckets go cold
            for _ in range(rng.randrange(1, 6)):
                rig.add(start, f"m{rng.randrange(4)}", rng.randrange(1, 999))
            async with writing(server, rig, rng=rng, batch_lines=7) as writer:
                try:
                    async with asyncio.timeout(rng.choice([0.001, 1, 20, 100, 1_000])):
                        await writer.flush(wall())
                except TimeoutError:
                    rig.reopen()  # cut off in the middle of whatever it was
                await asyncio.sleep(rng.choice([0, 1, 30, 300]))
        server.rate = 0
        server.on_write = None
        async with writing(server, rig) as writer:
            for _ in range(3):
                await asyncio.sleep(SETTLE + 1)
                await writer.flush(wall())
        expected = rig.expected()
        differing = sum(server.store.get(key) != fields for key, fields in expected.items())
        assert server.most_in_flight >= 1
        return Outcome(len(expected), differing, len(server.request_sizes), len(rig.dead_letters()))


@pytest.mark.parametrize("seed", SEEDS)
@in_virtual_time
async def test_the_store_equals_the_outbox_after_every_kind_of_fault(
    outbox_factory: MakeRig, seed: int
) -> None:
    outcome = await run_with_faults(outbox_factory(settle=SETTLE), seed, FAULTS)

    report("D2-D14", seed=seed, **vars(outcome))
    assert outcome.differing == 0
    assert outcome.dead == 0


@pytest.mark.parametrize("mutant", MUTANTS)
@in_virtual_time
async def test_each_mutant_is_caught(outbox_factory: MakeRig, mutant: str) -> None:
    # The confirmation pass would heal a blind acknowledgement too; so for that one there is none,
    # and nothing that only the confirmation can heal.
    is_blind = mutant == "blind_clear"
    settle = 10**9 if is_blind else SETTLE
    faults = tuple(set(FAULTS) - {"late"}) if is_blind else FAULTS

    caught_by = 0
    for seed in SEEDS:
        mutated = await run_with_faults(outbox_factory(settle, mutant), seed, sorted(faults))
        honest = await run_with_faults(outbox_factory(settle), seed, sorted(faults))
        assert honest.differing == 0
        if mutated.differing:
            caught_by = seed
            break

    report("D2-D14", mutant=mutant, caught_by_seed=caught_by)
    assert caught_by


@pytest.mark.parametrize(("mutant", "is_exact"), [("", True), ("no_confirm", False)])
@in_virtual_time
async def test_a_request_applied_late_over_newer_data_is_healed_by_the_confirmation(
    outbox_factory: MakeRig, mutant: str, is_exact: bool
) -> None:
    rig = outbox_factory(settle=SETTLE, mutant=mutant)
    rig.add(1_750_000_000, "m", 100)

    async with FaultServer(seed=3, late_seconds=500) as server:
        async with writing(server, rig) as writer:
            server.script.append("late")  # the first value is under way and its answer lost

            async def news(lines: list[str]) -> None:
                server.on_write = None
                rig.add(1_750_000_000, "m", 11)

            server.on_write = news
            await writer.flush(wall())
            for _ in range(2):
                await asyncio.sleep(SETTLE + 1)
                await writer.flush(wall())

        assert (server.store == rig.expected()) is is_exact


@pytest.mark.parametrize(("mutant", "is_exact"), [("", True), ("blind_clear", False)])
@in_virtual_time
async def test_news_that_land_during_the_request_stay_due(
    outbox_factory: MakeRig, mutant: str, is_exact: bool
) -> None:
    rig = outbox_factory(settle=10**9, mutant=mutant)
    rig.add(1_750_000_000, "m", 100)

    async with FaultServer() as server, writing(server, rig) as writer:

        async def news(lines: list[str]) -> None:
            server.on_write = None
            rig.add(1_750_000_000, "m", 11)

        server.on_write = news
        await writer.flush(wall())

        assert (server.store == rig.expected()) is is_exact


@pytest.mark.parametrize(("mutant", "is_exact"), [("", True), ("clear_first", False)])
@in_virtual_time
async def test_a_pass_cut_off_before_its_answer_is_repeated(
    outbox_factory: MakeRig, mutant: str, is_exact: bool
) -> None:
    rig = outbox_factory(settle=10**9, mutant=mutant)
    rig.add(1_750_000_000, "m", 100)

    async with FaultServer() as server:
        server.script.append("hang")
        async with writing(server, rig) as writer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await writer.flush(wall())
        rig.reopen()
        async with writing(server, rig) as writer:
            await writer.flush(wall())

        assert (server.store == rig.expected()) is is_exact


@in_virtual_time
async def test_an_emptied_database_is_filled_again_by_a_new_target(
    outbox_factory: MakeRig,
) -> None:
    rig = outbox_factory()
    rig.add_many([(1_750_000_000 + 300 * n, "m", n) for n in range(100)])

    async with FaultServer() as first, writing(first, rig) as writer:
        await writer.flush(wall())
    async with FaultServer() as second, writing(second, rig) as writer:
        result = await writer.flush(wall())

        assert result.sent == 100
        assert second.store == rig.expected()
