"""The few calls of InfluxDB 2's HTTP API that the set-up needs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from collectors.errors import SettingsError, TargetError

T = TypeVar("T")

TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
MAX_BODY = 8 << 20


class UnavailableError(TargetError):
    """InfluxDB gave no usable answer; whether it did what was asked is unknown."""


@dataclass(frozen=True)
class Answer:
    """A status and the JSON object that came with it (empty for anything else)."""

    status: int
    body: Mapping[str, Any]

    @property
    def message(self) -> str:
        """What the server said about an error."""
        return str(self.body.get("message") or self.body.get("error") or "no explanation")


@dataclass(frozen=True)
class InfluxApi:
    """One InfluxDB 2 server; tokens travel in the header only, redirects are not followed."""

    session: aiohttp.ClientSession
    url: str

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        params: Mapping[str, str] | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Send one request and return its answer, also when that is a refusal.

        Raises:
            UnavailableError: no answer, or one that asks to come again later.
        """
        headers = {"Authorization": f"Token {token}"} if token else {}
        try:
            async with self.session.request(
                method,
                self.url + path,
                params=params,
                json=payload,
                headers=headers,
                timeout=TIMEOUT,
                allow_redirects=False,
            ) as response:
                status, body = response.status, await _json_object(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            # The exception's own text may hold the whole address; its kind says enough.
            raise UnavailableError(
                f"InfluxDB at {self.url} did not answer {path}: {type(error).__name__}"
            ) from None
        answer = Answer(status, body)
        if status in AGAIN:
            raise UnavailableError(
                f"InfluxDB at {self.url} answered {path} with {status}: {answer.message}"
            )
        return answer

    async def expect(
        self,
        status: int,
        method: str,
        path: str,
        *,
        token: str = "",
        params: Mapping[str, str] | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Send one request whose answer must have this status; return its JSON.

        Raises:
            SettingsError: it has another one.
            UnavailableError: as `call`.
        """
        answer = await self.call(method, path, token=token, params=params, payload=payload)
        if answer.status != status:
            raise SettingsError(
                f"InfluxDB at {self.url} refused {method} {path}: {answer.status},"
                f" {answer.message}",
                "the token must be an operator token of an InfluxDB 2 server (2.4 or newer)",
            )
        return answer.body


async def _json_object(response: aiohttp.ClientResponse) -> Mapping[str, Any]:
    content = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        content += chunk
        if len(content) > MAX_BODY:
            return {}
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


async def patiently(seconds: float, step: Callable[[], Awaitable[T]]) -> T:
    """Run a repeatable step until it gets an answer or the time is over.

    Raises:
        UnavailableError: the last one, when the time is over.
    """
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(UnavailableError),
        stop=stop_after_delay(seconds),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    ):
        with attempt:
            return await step()
    raise AssertionError("unreachable: tenacity returns or raises")
