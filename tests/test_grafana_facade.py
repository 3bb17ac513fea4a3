"""The test kit itself: what stands in for InfluxDB 2 and 3 behaves as they do."""

from __future__ import annotations

import os

import pytest
from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.domain.write_precision import WritePrecision

from tests.support.dashcheck import ALL, duration, expand, step_ms
from tests.support.engines import AT_HAND
from tests.support.influxd import Database, Influxd, QueryError, WriteError
from tests.support.v2_facade import Fault, Generation, ThreadedV2Facade, V2Facade

GOOD = "m,a=1 x=1i 1790000000"
CONFLICT = "m,a=1 x=1.5 1790000001"
MALFORMED = "m,a=1 x=1i not-a-time"


async def send(facade: V2Facade, database: str, lines: list[str], token: str = "") -> int:
    """The status influxdb-client sees."""
    async with InfluxDBClientAsync(
        url=facade.url, token=token or facade.token, org="tokendash", enable_gzip=True
    ) as client:
        try:
            await client.write_api().write(
                bucket=database,
                record="\n".join(lines),
                write_precision=WritePrecision.S,  # type: ignore[arg-type]  # its constants are text
            )
        except InfluxDBError as error:
            return int(error.status)  # type: ignore[attr-defined]  # ApiException sets it
    return 204


def count(database: Database) -> int:
    found = database.query('SELECT count("x") FROM "m"')
    return int(found[0]["values"][0][1]) if found else 0


async def test_what_influxdb_client_writes_is_stored(influxd: Influxd, database: Database) -> None:
    async with V2Facade(influxd.url) as facade:
        status = await send(facade, database.name, [GOOD, "m,a=2 x=2i 1790000000"])

        assert (status, count(database)) == (204, 2)
        assert facade.lines() == [GOOD, "m,a=2 x=2i 1790000000"]
        assert facade.statuses == [204]


async def test_a_wrong_token_or_an_unknown_bucket_is_told(
    influxd: Influxd, database: Database
) -> None:
    async with V2Facade(influxd.url) as facade:
        assert await send(facade, database.name, [GOOD], token="another") == 401
        assert await send(facade, "nowhere", [GOOD]) == 404
        assert facade.bodies == [GOOD.encode()]


@pytest.mark.parametrize(
    ("mode", "bad", "status", "stored"),
    [
        ("2", MALFORMED, 400, 0),
        ("3", MALFORMED, 500, 1),
        ("2", CONFLICT, 422, 1),
        ("3", CONFLICT, 500, 1),
    ],
)
async def test_a_bad_line_is_answered_as_each_generation_does(
    influxd: Influxd, database: Database, mode: Generation, bad: str, status: int, stored: int
) -> None:
    database.write("m,a=1 x=1i 1789999999")  # types are per shard: the same week
    async with V2Facade(influxd.url, mode=mode) as facade:
        assert await send(facade, database.name, [GOOD, bad]) == status

    assert count(database) == 1 + stored


async def test_faults_come_in_order_and_then_the_truth(
    influxd: Influxd, database: Database
) -> None:
    async with V2Facade(influxd.url) as facade:
        facade.faults += [Fault(503), Fault(429, headers={"Retry-After": "1"})]

        statuses = [await send(facade, database.name, [GOOD]) for _ in range(3)]

        assert statuses == facade.statuses == [503, 429, 204]


async def test_a_lost_acknowledgement_has_stored_the_data(
    influxd: Influxd, database: Database
) -> None:
    async with V2Facade(influxd.url) as facade:
        facade.faults.append(Fault(504, after=True))

        assert await send(facade, database.name, [GOOD]) == 504

    assert count(database) == 1


async def test_a_body_above_the_limit_is_refused_whole(
    influxd: Influxd, database: Database
) -> None:
    async with V2Facade(influxd.url) as facade:
        facade.max_body = len(GOOD)

        assert await send(facade, database.name, [GOOD]) == 204
        assert await send(facade, database.name, [GOOD, GOOD]) == 413


async def test_points_older_than_the_retention_are_refused_and_the_rest_stored(
    influxd: Influxd,
) -> None:
    short = Database(influxd, "7d")
    async with V2Facade(influxd.url) as facade:
        assert await send(facade, short.name, ["m x=1i 1000000000"]) == 422

    assert count(short) == 0


async def test_the_facade_in_a_thread_serves_any_loop(
    v2: ThreadedV2Facade, database: Database
) -> None:
    assert await send(v2, database.name, [GOOD]) == 204
    assert count(database) == 1


def test_the_engine_raises_what_the_server_complains_about(database: Database) -> None:
    database.write(GOOD)

    with pytest.raises(QueryError, match="error parsing query"):
        database.query("SELEKT")
    with pytest.raises(WriteError, match="field type conflict"):
        database.write(CONFLICT)


def test_variables_are_written_as_grafana_writes_them() -> None:
    sql = "${a:regex} ${b:regex} ${c:regex} ${z:raw}"

    found = expand(sql, {"a": "x/y (z).", "b": ["p", "q|r"], "c": ALL, "z": "Europe/London"}, 0, 1)

    assert found == r"x\/y \(z\)\. (p|q\|r) .* Europe/London"


@pytest.mark.parametrize(
    ("days", "interval"), [(1, "5m"), (7, "10m"), (30, "30m"), (90, "2h"), (365, "6h")]
)
def test_intervals_are_rounded_as_grafana_rounds_them(days: int, interval: str) -> None:
    assert duration(step_ms(0, days * 86400)) == interval


@pytest.mark.parametrize(
    ("variable", "engine"),
    [("INFLUXD2", "influxdb-2"), ("INFLUXDB3", "influxdb-3")],
)
def test_the_suites_on_engines_also_run_on(variable: str, engine: str) -> None:
    if not os.environ.get(variable):
        pytest.skip(
            f"{variable} is not set: export {variable}=PATH of its server to run them there"
        )

    assert engine in AT_HAND
