"""influxdb-client, made to answer instead of raise. Slow to import (0.35 s): import it late."""

from __future__ import annotations

import os
import ssl
from typing import Any, Final

import aiohttp
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException

from collectors.outputs.influx.answers import Answer, presentable, server_text

LONGEST_REPLY: Final = 64 * 1024
CONNECT_SECONDS: Final = 10.0
_NANOSECONDS: Final[Any] = WritePrecision.NS  # a plain string, whatever the annotations say


class _ShortResponse(aiohttp.ClientResponse):
    """A reply that is read only so far: an error text is short, an endless one is hostile."""

    async def read(self) -> bytes:
        data = bytearray()
        try:
            async for chunk in self.content.iter_any():
                data += chunk
                if len(data) > LONGEST_REPLY:
                    self.close()
                    break
        except BaseException:  # cancelled or out of time: nobody else gives the connection back
            self.close()
            raise
        return bytes(data[:LONGEST_REPLY])


class InfluxClient:
    """Writes line protocol to one bucket; create it inside the running loop."""

    def __init__(self, *, url: str, token: str, org: str, bucket: str, timeout: float) -> None:
        self._token = token
        self._bucket = bucket
        self._timeout = timeout
        self._client = InfluxDBClientAsync(
            url=url,
            token=token,
            org=org,
            # The limit on the whole request is the only one a slow drip cannot get around.
            timeout=aiohttp.ClientTimeout(
                total=timeout, sock_connect=min(CONNECT_SECONDS, timeout)
            ),
            # Loading the certificate store takes 20 ms; plain http (redirects are off) has no use
            # for it, and an empty one trusts nobody.
            ssl_context=(
                ssl.create_default_context()
                if url.startswith("https:")
                else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            ),
            enable_gzip=False,  # compresses on the event loop and costs more than all the rest
            allow_redirects=False,
            client_session_kwargs={
                "response_class": _ShortResponse,
                # What is not asked for cannot unpack to a thousand times its size.
                "auto_decompress": False,
                "headers": {"Accept-Encoding": "identity"},
                "cookie_jar": aiohttp.DummyCookieJar(),
            },
        )
        self._api = self._client.write_api()

    async def write(self, body: str) -> Answer:
        """Send one body of nanosecond lines once; whatever happens becomes an answer."""
        try:
            await self._api.write(bucket=self._bucket, record=body, write_precision=_NANOSECONDS)
        except ApiException as error:
            return self._refusal(error)
        except TimeoutError:
            return Answer(0, f"no answer within {self._timeout:g} s", is_slow=True)
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            return Answer(0, _reason(error))
        # write() returns instead of raising for every 2xx, a login page included.
        return Answer(self._client.api_client.last_response.status)

    async def is_alive(self) -> bool:
        """Whether `/ping` answers: the one path every generation has, and open on most."""
        try:
            await self._client.ping()
        except (ApiException, aiohttp.ClientError, OSError):
            return False
        return True

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    def _refusal(self, error: Any) -> Answer:  # ApiException has no annotations
        text = presentable(server_text(error.body or b""), self._token)
        return Answer(int(error.status or 0), text, str(error.retry_after or ""))


def _reason(error: Exception) -> str:
    # Never str(error): aiohttp puts the whole URL into some of its texts.
    cause = getattr(error, "os_error", error)
    number = getattr(cause, "errno", None)
    # asyncio puts the address where the reason belongs; resolvers' numbers are negative.
    reason = os.strerror(number) if number and number > 0 else getattr(cause, "strerror", None)
    name = type(error).__name__
    return f"{reason} ({name})" if reason else name
