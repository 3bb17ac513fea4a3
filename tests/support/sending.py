"""A writer between an outbox and a server, as the tests of the InfluxDB output need it."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from collectors.outputs.influx import InfluxTarget, InfluxWriter
from tests.support.fault_server import BUCKET, ORG, TOKEN, FaultServer
from tests.support.outbox import Rig, inline
from tests.support.virtual_time import virtual_clock


def target_of(server: FaultServer, token: str = TOKEN) -> InfluxTarget:
    """The server as a target."""
    return InfluxTarget(server.url, ORG, BUCKET, read_token=lambda: token)


@asynccontextmanager
async def writing(
    server: FaultServer, rig: Rig, *, target: InfluxTarget | None = None, **options: Any
) -> AsyncIterator[InfluxWriter]:
    """A writer in virtual time, closed at the end."""
    settings = {"clock": virtual_clock, "rng": random.Random(1), **options}
    writer = InfluxWriter(target or target_of(server), rig.outbox, inline, **settings)
    try:
        yield writer
    finally:
        await writer.close()


def wall() -> float:
    """The virtual wall clock as a number."""
    return virtual_clock().timestamp()


def fill(rig: Rig, count: int, *, start: int = 1_750_000_000, models: int = 1) -> None:
    """So many buckets, five minutes apart, one request each."""
    rig.add_many([(start + 300 * (n // models), f"m{n % models}", 100 + n) for n in range(count)])


def report(fault: str, **figures: object) -> None:
    """Print one JSON line of evidence: which faults, how many, what was lost."""
    print(json.dumps({"fault": fault, **figures}))
