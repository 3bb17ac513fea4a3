"""The writer against a real engine: what it takes, what it refuses, what it holds afterwards."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from collectors.ledger.thread import LedgerThread
from collectors.measurements import FIELDS, Row, Value
from collectors.names import canonical
from collectors.outputs.influx import FlushResult, InfluxTarget, InfluxWriter
from collectors.outputs.lines import LineBuilder, status_line
from tests.support.influxd import Database, Influxd
from tests.support.outbox import MakeRig, Rig, outbox_factory
from tests.support.sending import fill, report
from tests.support.v2_facade import Fault, ThreadedV2Facade
from tests.test_lines import AWKWARD

__all__ = ["outbox_factory"]  # a fixture: importing it is using it

START = 1_750_000_000
HOUR = 3_600


@asynccontextmanager
async def writing(
    v2: ThreadedV2Facade, database: Database, rig: Rig, **options: Any
) -> AsyncIterator[InfluxWriter]:
    """A writer in real time, its outbox on a ledger's thread."""
    thread = LedgerThread()
    target = InfluxTarget(v2.url, "org", database.name, read_token=lambda: v2.token)
    writer = InfluxWriter(
        target, rig.outbox, thread.run, rng=random.Random(1), requests_per_second=1e6, **options
    )
    try:
        yield writer
    finally:
        await writer.close()
        thread.close()


async def flush(writer: InfluxWriter) -> FlushResult:
    """One pass now."""
    return await writer.flush(time.time())


def total(database: Database, field: str) -> float:
    """The sum of a field over everything."""
    series = database.query(f"SELECT sum({field}) FROM token_usage")
    return float(series[0]["values"][0][1]) if series else 0.0


async def test_what_is_sent_is_there_and_sending_again_changes_nothing(
    v2: ThreadedV2Facade, database: Database, outbox_factory: MakeRig
) -> None:
    rig = outbox_factory(settle=0)
    fill(rig, 3_000, models=3)

    async with writing(v2, database, rig) as writer:
        result = await flush(writer)
        rig.add(START, "m0", 5)
        await flush(writer)

    # 100 + 101 + ... + 3099, and the 5 that came later; each row twice because nothing settles.
    assert result.sent == 6_000
    assert total(database, "input_tokens") == sum(range(100, 3_100)) + 5
    assert total(database, "cost_usd") == pytest.approx((sum(range(100, 3_100)) + 5) / 1e6)


async def test_a_lost_acknowledgement_stores_once(
    v2: ThreadedV2Facade, database: Database, outbox_factory: MakeRig
) -> None:
    rig = outbox_factory()
    fill(rig, 10)
    v2.faults += [Fault(503, after=True), Fault(drop=True), Fault(500, after=True)]

    async with writing(v2, database, rig) as writer:
        await flush(writer)
        await flush(writer)

    assert rig.pending() == 0
    assert total(database, "requests") == 10


@pytest.mark.parametrize("mode", ["2", "3"])
async def test_a_type_conflict_takes_only_its_own_series_and_is_named(
    v2: ThreadedV2Facade, database: Database, outbox_factory: MakeRig, mode: str
) -> None:
    rig = outbox_factory()
    fill(rig, 200)
    # Someone once wrote a count as text: in the shard of an old row nothing else fits any more.
    old = START - 10 * 365 * 86_400
    database.write(f'token_usage,model=old input_tokens="many" {old}')
    rig.add(old, "victim", 1)
    v2.mode = mode  # type: ignore[assignment]

    async with writing(v2, database, rig) as writer:
        result = await flush(writer)

    [(kind, message, model)] = rig.dead_letters()
    assert (result.sent, result.refused, result.pending) == (200, 1, 0)
    assert (kind, model) == ("refused", "victim")
    assert ("field type conflict" if mode == "2" else "partial write") in message
    report("D9", mode=mode, requests=len(v2.bodies))


async def test_rows_past_the_retention_are_set_aside_and_never_sent_again(
    v2: ThreadedV2Facade, influxd: Influxd, outbox_factory: MakeRig
) -> None:
    database = Database(influxd, "7d")
    rig = outbox_factory()
    now = int(time.time()) // 300 * 300
    rig.add_many([(now - hours * HOUR, "m", 1) for hours in range(24 * 30)])

    async with writing(v2, database, rig) as writer:
        result = await flush(writer)
        requests = len(v2.bodies)
        again = await flush(writer)

    # The engine takes a row that is too old when a younger one of the same batch has opened the
    # shard of its day, so up to a day more than a week is stored, and not all of it knowingly.
    stored = total(database, "requests")
    report("D8", rows=720, sent=result.sent, stored=stored, requests=requests)
    assert 24 * 7 <= result.sent <= stored <= 24 * 8 + 1
    assert result.sent + result.outside_retention == 720
    assert (result.refused, again.sent, len(v2.bodies)) == (0, 0, requests)


async def test_two_dozen_awkward_names_make_no_foreign_series_and_no_collision(
    v2: ThreadedV2Facade, database: Database, outbox_factory: MakeRig
) -> None:
    rig = outbox_factory()
    names = {canonical(name) for name in AWKWARD}
    for number, name in enumerate(sorted(names)):
        rig.add(START, name, 1_000 + number)

    async with writing(v2, database, rig) as writer:
        result = await flush(writer)

    assert len(AWKWARD) == 24
    assert (result.sent, result.refused) == (len(names), 0)
    [series] = database.query('SHOW TAG VALUES FROM token_usage WITH KEY = "model"')
    assert {value for _, value in series["values"]} == names
    [measurements] = database.query("SHOW MEASUREMENTS")
    assert measurements["values"] == [["token_usage"]]
    found = database.query("SELECT sum(input_tokens) FROM token_usage GROUP BY model")
    assert {one["tags"]["model"]: one["values"][0][1] for one in found} == {
        name: 1_000 + number for number, name in enumerate(sorted(names))
    }


async def test_series_with_every_tag_at_its_longest_are_taken(
    v2: ThreadedV2Facade, database: Database
) -> None:
    tags = ["host", "model", "project", "provider", "source"]
    long = tuple((tag, canonical("é" * 70_000)) for tag in tags)
    zeros = tuple(0 if kind == "int" else 0.0 for _, kind in FIELDS["token_usage"])
    line = LineBuilder().line(Row("token_usage", long, 1, START * 10**9, zeros))

    database.write(line, precision="n")

    [series] = database.query('SHOW TAG VALUES FROM token_usage WITH KEY = "project"')
    assert series["values"] == [["project", canonical("é" * 70_000)]]


async def test_every_measurement_is_taken_and_keeps_its_types(
    v2: ThreadedV2Facade, database: Database, outbox_factory: MakeRig
) -> None:
    rig = outbox_factory()
    values: dict[str, Value] = {"int": 1, "float": 2, "str": 'said "no" \\'}
    lines = [
        status_line(
            measurement,
            {"host": "box"},
            {name: values[kind] for name, kind in fields},
            START * 10**9,
        )
        for measurement, fields in FIELDS.items()
    ]

    async with writing(v2, database, rig) as writer:
        assert await writer.send_gauges(lines)

    for measurement, fields in FIELDS.items():
        [series] = database.query(f'SHOW FIELD KEYS FROM "{measurement}"')
        words = {"int": "integer", "float": "float", "str": "string"}
        assert series["values"] == [[name, words[kind]] for name, kind in fields]
    [status] = database.query("SELECT last_error FROM collector_status")
    assert status["values"][0][1] == 'said "no" \\'


async def test_reachable_names_the_wrong_bucket_on_a_real_engine_too(
    v2: ThreadedV2Facade, database: Database, outbox_factory: MakeRig
) -> None:
    async with writing(v2, database, outbox_factory()) as writer:
        assert await asyncio.wait_for(writer.reachable(), 30) == (
            f"{v2.url} takes writes to bucket {database.name!r}"
        )
    assert database.query("SHOW MEASUREMENTS") == []
