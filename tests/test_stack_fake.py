"""The fake InfluxDB 2 behaves as the real one does towards whoever writes to it."""

from __future__ import annotations

import gzip
import time
from collections.abc import AsyncIterator

import pytest
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.rest import ApiException

from tests.support.influx2_fake import ApiError, FakeInflux2, parse_lines, serve

TOKEN = "operator-token-of-this-test"


@pytest.fixture
def fake() -> FakeInflux2:
    """A server that is set up."""
    server = FakeInflux2()
    server.onboard("me", "home", "tokens", TOKEN)
    return server


@pytest.fixture
async def client(fake: FakeInflux2) -> AsyncIterator[InfluxDBClientAsync]:
    """The real client, talking to it."""
    async with serve(fake) as url, InfluxDBClientAsync(url, TOKEN, "home") as connected:
        yield connected


async def test_a_point_written_twice_keeps_the_last_value_of_each_field(
    fake: FakeInflux2, client: InfluxDBClientAsync
) -> None:
    write = client.write_api()
    await write.write("tokens", record="use,model=a\\ b in=3i,cost=0.5 1000000000")
    await write.write("tokens", record="use,model=a\\ b in=4i 1000000000")

    key = ("use", frozenset({("model", "a b")}), 1_000_000_000)
    assert fake.points("tokens") == {key: {"in": 4, "cost": 0.5}}


@pytest.mark.parametrize(
    ("record", "status", "message", "stored"),
    [
        ("m x=1i 1\nm nonsense 2", 400, "unable to parse", 0),
        ("m x=1i 1\nm x=1.5 2", 422, 'input field "x" on measurement "m" is type float', 1),
    ],
)
async def test_a_bad_line_costs_what_it_costs_on_the_real_server(
    fake: FakeInflux2,
    client: InfluxDBClientAsync,
    record: str,
    status: int,
    message: str,
    stored: int,
) -> None:
    with pytest.raises(ApiException) as caught:
        await client.write_api().write("tokens", record=record)

    assert caught.value.status == status
    assert message in str(caught.value.message)
    assert len(fake.points("tokens")) == stored


async def test_points_older_than_the_retention_are_refused_and_the_others_stored(
    fake: FakeInflux2, client: InfluxDBClientAsync
) -> None:
    [bucket] = [item for item in fake.buckets.values() if item.name == "tokens"]
    bucket.retention = 3600
    now = time.time_ns()

    with pytest.raises(ApiException) as caught:
        await client.write_api().write("tokens", record=f"m x=1i {now}\nm x=1i 1000")

    assert caught.value.status == 422
    assert "points beyond retention policy dropped=1" in str(caught.value.message)
    assert [key[2] for key in fake.points("tokens")] == [now]


@pytest.mark.parametrize(
    ("token", "bucket", "body", "status"),
    [
        ("wrong", "tokens", b"m x=1i", 401),
        (TOKEN, "nowhere", b"m x=1i", 404),
        (TOKEN, "tokens", b"", 400),
        (TOKEN, "tokens", gzip.compress(b"m x=1i"), 204),
    ],
    ids=["unknown_token", "unknown_bucket", "no_points", "gzip"],
)
async def test_writes_are_answered_with_the_real_servers_status(
    fake: FakeInflux2, token: str, bucket: str, body: bytes, status: int
) -> None:
    import aiohttp

    headers = {"Authorization": f"Token {token}"}
    if body[:2] == b"\x1f\x8b":
        headers["Content-Encoding"] = "gzip"
    where = {"org": "home", "bucket": bucket}
    async with (
        serve(fake) as url,
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/api/v2/write", params=where, data=body) as reply,
    ):
        assert reply.status == status


def test_line_protocol_is_read_as_the_server_reads_it() -> None:
    [(key, fields)] = parse_lines(
        'a\\,b,t\\=1="x",u=c\\ d n=-1i,f=2,s="a b, \\"c\\" \\\\",k\\ 1=t,g=F 7', 1_000
    )

    assert key == ("a,b", frozenset({("t=1", '"x"'), ("u", "c d")}), 7_000)
    assert fields == {"n": -1, "f": 2.0, "s": 'a b, "c" \\', "k 1": True, "g": False}
    assert isinstance(fields["f"], float)


@pytest.mark.parametrize(
    "line",
    [
        "m",
        "m x",
        "m x= 1",
        "m,t= x=1",
        "m x=1u 1",
        "m x=NaN 1",
        "m x=9223372036854775808i",
        "m x=1 y",
    ],
)
def test_lines_the_server_refuses_are_refused(line: str) -> None:
    with pytest.raises(ApiError, match="unable to parse"):
        list(parse_lines(line))
