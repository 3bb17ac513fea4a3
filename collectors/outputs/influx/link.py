"""The line to one InfluxDB: one request at a time, at a polite pace, with the token of today."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from collectors.errors import SettingsError, TargetError
from collectors.outputs.influx.answers import Answer, explain, safe_url

if TYPE_CHECKING:
    from collectors.outputs.influx.client import InfluxClient

Run = Callable[..., Awaitable[Any]]

# Every generation takes a comment for no point at all: token, organisation and bucket are checked
# and nothing is stored. (2.x refuses an empty body before it looks at them.)
PROBE: Final = "# tokendash"
BURST: Final = 10


@dataclass(frozen=True)
class InfluxTarget:
    """Where to write. `read_token` is called at the start and again after a 401.

    Raises:
        SettingsError: the URL is not one InfluxDB could have, or it carries a password.
    """

    url: str
    org: str
    bucket: str
    read_token: Callable[[], str] = field(repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # its port is no number, or its bracket never closes
            raise _not_an_address() from None
        if not is_address:
            raise _not_an_address()
        if parts.username or parts.password or parts.query or parts.fragment:
            raise SettingsError(
                "INFLUXDB_URL holds a user name, password or query",
                "leave only the address in it; for InfluxDB 1.x set INFLUXDB_TOKEN=user:password",
            )

    @property
    def address(self) -> str:
        """The URL in the form it is registered and shown under."""
        return safe_url(self.url)


def _not_an_address() -> SettingsError:
    return SettingsError(
        "INFLUXDB_URL is not an http or https address",
        "set it to an address such as http://127.0.0.1:8086",
    )


class Link:
    """Sends bodies and gives their answers; never more than one request in flight."""

    def __init__(self, target: InfluxTarget, run: Run, timeout: float, per_second: float) -> None:
        self.target = target
        self.accepted_at = float("-inf")  # loop time of the last 204 for real lines
        self._run = run
        self._timeout = timeout
        self._pace = _Pace(per_second, BURST)
        self._one_at_a_time = asyncio.Lock()
        self._client: InfluxClient | None = None
        self._token = ""
        self._settings_error: SettingsError | None = None

    async def post(self, body: str) -> Answer:
        """One request; a second one when a 401 finds another token in the token's file."""
        async with self._one_at_a_time:
            self._settings_error = None
            try:
                client = self._client or await self._connect()
                await self._pace.turn()
                answer = await client.write(body)
                if answer.status == 401 and await self._run(self._read_token) != self._token:
                    await self.close()
                    client = await self._connect()
                    answer = await client.write(body)
            except SettingsError as error:
                self._settings_error = error
                return Answer(401, str(error))
            if answer.status == 204 and body != PROBE:
                self.accepted_at = asyncio.get_running_loop().time()
            return answer

    async def is_alive(self) -> bool:
        """Whether the server answers at all, writes aside."""
        async with self._one_at_a_time:
            return self._client is not None and await self._client.is_alive()

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def explain(self, answer: Answer) -> TargetError:
        """The error an answer amounts to, with the setting that mends it."""
        if answer.status == 401 and self._settings_error is not None:
            return TargetError(str(self._settings_error), self._settings_error.hint)
        return explain(answer, self.target.address, self.target.org, self.target.bucket)

    async def _connect(self) -> InfluxClient:
        # Imported here: 0.35 s that a program without a target never pays, and in a thread, so
        # that one with a target goes on meanwhile.
        await asyncio.to_thread(importlib.import_module, "collectors.outputs.influx.client")
        from collectors.outputs.influx.client import InfluxClient

        self._token = await self._run(self._read_token)
        self._client = InfluxClient(
            url=self.target.address,
            token=self._token,
            org=self.target.org,
            bucket=self.target.bucket,
            timeout=self._timeout,
        )
        return self._client

    def _read_token(self) -> str:
        return self.target.read_token().strip()


class _Pace:
    """So many requests at once, then so many a second: a first backfill must not be a flood."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._step = 1.0 / per_second
        self._slack = burst * self._step
        self._free_at = float("-inf")

    async def turn(self) -> None:
        """Wait for one's turn."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - self._slack) + self._step
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
