"""The InfluxDB v2 write and query API in front of a real InfluxDB 1, with faults on demand.

The 1.6 engine of Debian has no `/api/v2/write`. This facade checks the token, unpacks gzip, stores
through the v1 path and answers as 2.x or 3.x would, so that influxdb-client writes into a real
engine and a test reads back what was really stored. Faults are answered in order, one per write:

    facade.faults += [Fault(503, headers={"Retry-After": "1"}), Fault(drop=True)]

`async with V2Facade(url)` runs it in the test's own loop, `with ThreadedV2Facade(url)` in a thread.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self

from aiohttp import ClientSession, web

Generation = Literal["2", "3"]

TOKEN: Final = "test-token"
_CODES: Final = {
    400: "invalid",
    401: "unauthorized",
    404: "not found",
    413: "request too large",
    422: "unprocessable entity",
    429: "too many requests",
    503: "unavailable",
}


@dataclass(frozen=True)
class Fault:
    """What one write is answered with instead of the truth."""

    status: int = 500
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # instead of the JSON error, such as the HTML of a proxy
    drop: bool = False  # cut the connection instead of answering
    after: bool = False  # only after the data was stored: a lost acknowledgement


class V2Facade:
    """The facade as a server in the running event loop.

    `mode` "2": a malformed line refuses the whole batch with 400, conflicts and retention give 422
    and the rest is stored. `mode` "3": good lines are stored and the answer is 500.
    """

    def __init__(self, v1_url: str, token: str = TOKEN, mode: Generation = "2") -> None:
        self.v1_url = v1_url
        self.token = token
        self.mode: Generation = mode
        self.max_body = 0  # bytes after unpacking; 0 means any size
        self.faults: deque[Fault] = deque()
        self.bodies: list[bytes] = []  # of every authorised write, unpacked
        self.statuses: list[int] = []  # what each of them was answered; 0 for a cut connection
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._http: ClientSession | None = None
        self._scratch = 0

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes(
            [
                web.get("/ping", self._ping),
                web.get("/health", self._health),
                web.post("/api/v2/write", self._write),
                web.route("*", "/query", self._query),
            ]
        )
        self._http = ClientSession()
        self._runner = web.AppRunner(app, auto_decompress=False)
        await self._runner.setup()
        # Port 0 and asking afterwards: nobody can take the port in between.
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._http is not None:
            await self._http.close()

    def lines(self) -> list[str]:
        """Every line of every write, in the order it came."""
        return [line for body in self.bodies for line in body.decode().splitlines() if line]

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"X-Influxdb-Version": "v2.9.1"})

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"name": "influxdb", "status": "pass", "checks": []})

    async def _write(self, request: web.Request) -> web.Response:
        if not self._authorised(request):
            return _problem(401, "unauthorized access")
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.bodies.append(body)
        fault = self.faults.popleft() if self.faults else None
        if fault is not None and fault.after:
            await self._store(request, body)
        if fault is not None:
            self.statuses.append(0 if fault.drop else fault.status)
            return _faulty(request, fault)
        answer = await self._store(request, body)
        self.statuses.append(answer.status)
        return answer

    async def _store(self, request: web.Request, body: bytes) -> web.Response:
        if self.max_body and len(body) > self.max_body:
            return _problem(413, "unable to read data: points batch is too large")
        bucket = request.query.get("bucket", "")
        precision = request.query.get("precision", "ns")
        if self.mode == "2":
            complaint = await self._dry_parse(precision, body)
            if complaint:
                return _problem(400, complaint)
        status, error = await self._v1_write(bucket, precision, body)
        if status == 204:
            return web.Response(status=204)
        if status == 404:
            return _problem(404, f'bucket "{bucket}" not found')
        if not error.startswith("partial write"):
            return _problem(status, error)
        if self.mode == "3":
            return _problem(500, "partial write of line protocol occurred")
        return _problem(422, f"failure writing points to database: {error}")

    async def _dry_parse(self, precision: str, body: bytes) -> str:
        """What the parser says, or nothing: 2.x stores nothing of a batch with a malformed line.

        Into a fresh database each time, because a type conflict with older points would hide it.
        """
        self._scratch += 1
        scratch = f"_parse_{id(self):x}_{self._scratch}"
        create = f'CREATE DATABASE "{scratch}" WITH DURATION INF SHARD DURATION 5200w'
        async with self._session.post(f"{self.v1_url}/query", params={"q": create}):
            pass
        _, error = await self._v1_write(scratch, precision, body)
        return error if "unable to parse" in error else ""

    async def _v1_write(self, database: str, precision: str, body: bytes) -> tuple[int, str]:
        params = {"db": database, "precision": {"ns": "n", "us": "u"}.get(precision, precision)}
        async with self._session.post(f"{self.v1_url}/write", params=params, data=body) as reply:
            text = await reply.text()
        return reply.status, json.loads(text).get("error", "") if text else ""

    async def _query(self, request: web.Request) -> web.Response:
        if not self._authorised(request):
            return _problem(401, "unauthorized access")
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in ("Content-Type", "Accept")
        }
        async with self._session.request(
            request.method,
            f"{self.v1_url}/query",
            params=request.query,
            data=await request.read(),
            headers=headers,
        ) as reply:
            return web.Response(
                status=reply.status, body=await reply.read(), content_type="application/json"
            )

    def _authorised(self, request: web.Request) -> bool:
        return request.headers.get("Authorization") in (
            f"Token {self.token}",
            f"Bearer {self.token}",
        )

    @property
    def _session(self) -> ClientSession:
        assert self._http is not None, "the facade is not running"
        return self._http


class ThreadedV2Facade(V2Facade):
    """The facade in a thread with an event loop of its own, for tests that are not async."""

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="v2-facade", daemon=True
        )
        self._thread.start()
        started.result(timeout=30)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=30)

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            async with self:
                started.set_result(None)
                await self._stop.wait()
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
            raise


def _faulty(request: web.Request, fault: Fault) -> web.Response:
    if fault.drop:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)
    if fault.body is not None:
        return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
    return _problem(fault.status, fault.message, fault.headers)


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(
        {"code": _CODES.get(status, "internal error"), "message": message},
        status=status,
        headers=headers,
    )
