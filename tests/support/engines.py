"""Pytest fixtures: real engines per session, a database per test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.influxd import (
    Database,
    Engine,
    Influxd,
    Server,
    find_influxd,
    find_influxd2,
    find_influxdb3,
)
from tests.support.v2_facade import ThreadedV2Facade


@pytest.fixture(scope="session")
def influxd() -> Iterator[Influxd]:
    """A real InfluxDB 1 server, shared by the session."""
    with find_influxd() as server:
        yield server


@pytest.fixture
def database(influxd: Influxd) -> Database:
    """An empty database of the InfluxDB 1 server, of this test alone."""
    return Database(influxd)


@pytest.fixture
def v2(influxd: Influxd) -> Iterator[ThreadedV2Facade]:
    """The v2 API in front of the InfluxDB 1 server, without faults; runs in a thread."""
    with ThreadedV2Facade(influxd.url) as facade:
        yield facade


AT_HAND: Final = [
    "influxdb-1",
    *(["influxdb-2"] if os.environ.get("INFLUXD2") else []),
    *(["influxdb-3"] if os.environ.get("INFLUXDB3") else []),
]


@pytest.fixture(scope="session", params=AT_HAND)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each InfluxDB generation at hand: 1 always, 2 and 3 with INFLUXD2 and INFLUXDB3."""
    if request.param == "influxdb-1":
        yield request.getfixturevalue("influxd")
        return
    server: Server = find_influxd2() if request.param == "influxdb-2" else find_influxdb3()
    with server:
        yield server  # type: ignore[misc]  # both subclasses are engines


@pytest.fixture
def engine_database(engine: Engine) -> Database:
    """An empty database of one engine, of this test alone."""
    return Database(engine)
