"""An InfluxDB 2 that keeps a model of what was written and misbehaves by script and by seed.

The model is the last write per series, timestamp and field, so a test compares it with the ledger.
In a test:

    async with FaultServer(seed=7, rate=0.3) as server:
        server.script += ["503", "reset_applied"]     # first these, then by seed
        ...
        assert server.store == expected

As a process: `python -m tests.support.fault_server --port-file F --seed N --rate R`. Then
`GET /_store` is the model and `GET /_stats` the faults so far; `POST /_control` with
`{"rate": 0, "script": ["500"]}` changes the manners.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from aiohttp import web

TOKEN: Final = "fault-token"
ORG: Final = "tokendash"
BUCKET: Final = "tokens"

Value = int | float | str | bool
Key = tuple[str, tuple[tuple[str, str], ...], int]
Store = dict[Key, dict[str, Value]]

# Everything a server or something before it may do to a good batch.
FAULTS: Final = (
    "500",
    "500_applied",
    "500_half",
    "502",
    "503",
    "503_retry_after",
    "504_applied",
    "429",
    "429_retry_after",
    "408",
    "413",
    "401",
    "403",
    "404",
    "404_html",
    "200_html",
    "202",
    "301",
    "302",
    "303",
    "307",
    "308",
    "reset",
    "reset_applied",
    "half_reply",
    "half_reply_applied",
    "hang",
    "hang_applied",
    "drip",
    "endless",
    "late",
)

# What happens to a batch with a line that the server will never take.
PoisonManner = Literal[
    "1",  # 1.x: the others stored, 400
    "2",  # 2.x: nothing stored, 400
    "2_partial",  # 2.x on a type conflict: the others stored, 422
    "3",  # 3.x: the others stored, 500 with a text
    "breakdown",  # the others stored, 500 without any text, for ever
    "mute",  # nothing stored, 400 without any text
]


class ParsedLine(NamedTuple):
    """One line of line protocol, unescaped."""

    measurement: str
    tags: tuple[tuple[str, str], ...]
    fields: dict[str, Value]
    timestamp: int

    @property
    def key(self) -> Key:
        """What makes it one point."""
        return self.measurement, self.tags, self.timestamp


class FaultServer:
    """The server as an async context manager in the running loop."""

    def __init__(
        self,
        *,
        seed: int = 0,
        rate: float = 0.0,
        faults: Sequence[str] = FAULTS,
        hang_seconds: float = 3_600.0,
        late_seconds: float = 0.15,
    ) -> None:
        self.store: Store = {}
        self.counts: Counter[str] = Counter()
        self.request_sizes: list[int] = []  # lines per write, in order
        self.line_count = 0
        self.script: deque[str] = deque()
        self.rate = rate
        self.faults = tuple(faults)
        self.decide: Callable[[], str | None] | None = None  # a fault, "ok", or None for the seed
        self.on_write: Callable[[list[str]], Awaitable[None]] | None = None
        self.token = TOKEN
        self.org = ORG
        self.bucket = BUCKET
        self.max_body = 0
        self.retry_after = "1"
        self.is_poison: Callable[[str], bool] | None = None
        self.poison_manner: PoisonManner = "2"
        self.keeps_from_ns: int | None = None
        self.is_ping_broken = False
        self.is_storing = True
        self.times: list[float] = []  # of each write, in the loop's time
        self.echoes_authorization = False  # in error texts, as a careless gateway does
        self.followed_redirects = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.port = 0
        self._rng = random.Random(seed)
        self._hang_seconds = hang_seconds
        self._late_seconds = late_seconds
        self._late: set[asyncio.TimerHandle] = set()
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes(
            [
                web.post("/api/v2/write", self._write),
                web.get("/ping", self._ping),
                web.get("/health", self._ping),
                web.get("/_store", self._show_store),
                web.get("/_stats", self._show_stats),
                web.post("/_control", self._control),
                web.route("*", "/elsewhere", self._elsewhere),
            ]
        )
        # A short keep-alive: its ticks are what virtual days would be spent on.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=5.0
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        for handle in self._late:
            handle.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    # -- routes ----------------------------------------------------------------------------------

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if self.is_ping_broken else 204)

    async def _show_store(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {"measurement": name, "tags": dict(tags), "timestamp": time, "fields": fields}
                for (name, tags, time), fields in self.store.items()
            ]
        )

    async def _show_stats(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"faults": self.counts, "requests": len(self.request_sizes), "lines": self.line_count}
        )

    async def _control(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self.rate = float(wanted.get("rate", self.rate))
        self.script.extend(wanted.get("script", ()))
        return web.Response(status=204)

    async def _elsewhere(self, request: web.Request) -> web.Response:
        self.followed_redirects += 1
        return web.Response(status=204)

    async def _write(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            body = await request.text()
            # Not splitlines(): only a newline ends a line here.
            lines = [line for line in body.split("\n") if line and not line.startswith("#")]
            self.request_sizes.append(len(lines))
            self.times.append(asyncio.get_running_loop().time())
            self.line_count += len(lines)
            if self.on_write is not None:
                await self.on_write(lines)
            fault = self._next_fault()
            self.counts[fault] += 1
            return await self._answer(fault, request, lines, len(body.encode()))
        finally:
            self.in_flight -= 1

    # -- manners ---------------------------------------------------------------------------------

    def _next_fault(self) -> str:
        if self.script:
            return self.script.popleft()
        decided = self.decide() if self.decide is not None else None
        if decided is not None:
            return decided
        if self._rng.random() < self.rate:
            return self._rng.choice(self.faults)
        return "ok"

    async def _answer(
        self, fault: str, request: web.Request, lines: list[str], size: int
    ) -> web.StreamResponse:
        if fault == "ok":
            return self._honest(request, lines, size)
        name, _, manner = fault.partition("_")
        if "applied" in manner:
            self._apply(lines)
        if name == "late":
            self._apply_late(lines)
            return _reset(request)
        if name == "reset":
            return _reset(request)
        if name == "half":
            return _half_reply(request)
        if name == "hang":
            return await self._hang()
        if name in ("drip", "endless"):
            return await self._babble(request, is_slow=name == "drip")
        if manner == "half":
            self._apply(lines[: len(lines) // 2])
        if self.echoes_authorization:
            return _problem(int(name), f"cannot: {request.headers.get('Authorization')}\x1b[2J")
        return self._plain(int(name), manner)

    def _plain(self, status: int, manner: str) -> web.Response:
        if manner == "html":
            page = "<!DOCTYPE html><html><body>Please sign in</body></html>"
            return web.Response(status=status, text=page, content_type="text/html")
        if status < 300:
            return web.Response(status=status)
        if status < 400:
            return web.Response(status=status, headers={"Location": f"{self.url}/elsewhere"})
        headers = {"Retry-After": self.retry_after} if manner == "retry_after" else {}
        texts = {401: "unauthorized access", 403: "insufficient permissions for write"}
        text = texts.get(status, f"bucket {self.bucket!r} not found" if status == 404 else "")
        return _problem(status, text, headers)

    def _honest(self, request: web.Request, lines: list[str], size: int) -> web.Response:
        if self.token and request.headers.get("Authorization") != f"Token {self.token}":
            return _problem(401, "unauthorized access")
        if request.query.get("org") != self.org:
            return _problem(404, f'organization name "{request.query.get("org")}" not found')
        if request.query.get("bucket") != self.bucket:
            return _problem(404, f'bucket "{request.query.get("bucket")}" not found')
        assert request.query.get("precision") == "ns"
        if self.max_body and size > self.max_body:
            return _problem(413, "request entity too large")
        poison = [line for line in lines if self.is_poison is not None and self.is_poison(line)]
        if poison and self.poison_manner in ("2", "mute"):
            mute = self.poison_manner == "mute"
            return _problem(400, "" if mute else f"unable to parse '{poison[0]}': invalid number")
        good = [line for line in lines if line not in poison]
        kept = [line for line in good if self._is_kept(line)]
        self._apply(kept)
        if poison:
            return self._poisoned(len(poison))
        if len(kept) < len(good):
            text = f"partial write: points beyond retention policy dropped={len(good) - len(kept)}"
            return _problem(422, f"failure writing points to database: {text}")
        return web.Response(status=204)

    def _poisoned(self, count: int) -> web.Response:
        if self.poison_manner == "1":
            text = f"partial write: unable to parse 'it': invalid number dropped={count}"
            return web.json_response({"error": text}, status=400)
        if self.poison_manner == "2_partial":
            text = f"partial write: field type conflict: input field is a string dropped={count}"
            return _problem(422, f"failure writing points to database: {text}")
        if self.poison_manner == "3":
            return _problem(500, "partial write of line protocol occurred")
        return web.Response(status=500)

    def _is_kept(self, line: str) -> bool:
        return self.keeps_from_ns is None or parse_line(line).timestamp >= self.keeps_from_ns

    async def _hang(self) -> web.Response:
        try:
            async with asyncio.timeout(self._hang_seconds):
                await self._closing.wait()
        except TimeoutError:
            pass
        return web.Response(status=504)

    async def _babble(self, request: web.Request, *, is_slow: bool) -> web.StreamResponse:
        """A reply that never ends: byte by byte, or as fast as it is taken."""
        response = web.StreamResponse(status=500)
        await response.prepare(request)
        try:
            while not self._closing.is_set() and request.transport is not None:
                await response.write(b"x" if is_slow else b"x" * 65_536)
                if is_slow:
                    await asyncio.sleep(1)
        except (ConnectionError, RuntimeError):
            pass  # the client had enough
        return response

    def _apply(self, lines: Sequence[str]) -> None:
        if not self.is_storing:
            return
        for line in lines:
            point = parse_line(line)
            self.store.setdefault(point.key, {}).update(point.fields)

    def _apply_late(self, lines: list[str]) -> None:
        """Store after the connection was cut, perhaps over something newer."""
        loop = asyncio.get_running_loop()
        delay = self._rng.uniform(0, self._late_seconds)
        self._late.add(loop.call_later(delay, self._apply, lines))


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _half_reply(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 204 No Content\r\nX-Influxdb-Ver")
        request.transport.close()
    return web.Response(status=500)


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    codes = {400: "invalid", 401: "unauthorized", 404: "not found", 422: "unprocessable entity"}
    content = {"code": codes.get(status, "internal error"), "message": message}
    return web.json_response(content, status=status, headers=headers)


def parse_line(line: str) -> ParsedLine:
    """Parse one line, knowing nothing of how ours are built.

    Raises:
        ValueError: a server would refuse it.
    """
    head, position = _until(line, 0, " ")
    names = [_unescape(part) for part in _split(head, ",")]
    tags = tuple(_pair(part) for part in _split(head, ",")[1:])
    fields: dict[str, Value] = {}
    while True:
        name, position = _until(line, position + 1, "=")
        text, position = _field_text(line, position + 1)
        fields[_unescape(name)] = _value(text)
        if position >= len(line) or line[position] == " ":
            break
    rest = line[position:]
    if not rest.startswith(" ") or not rest[1:].lstrip("-").isdigit() or not names[0]:
        raise ValueError(f"no timestamp: {line!r}")
    timestamp = int(rest)
    if not -(2**63) <= timestamp < 2**63:
        raise ValueError(f"timestamp out of range: {line!r}")
    return ParsedLine(names[0], tags, fields, timestamp)


def _until(line: str, start: int, end: str) -> tuple[str, int]:
    """The text up to an unescaped character, and where that stands."""
    position = start
    while position < len(line) and line[position] != end:
        position += 2 if line[position] == "\\" else 1
    if position >= len(line):
        raise ValueError(f"no {end!r}: {line!r}")
    return line[start:position], position


def _split(text: str, separator: str) -> list[str]:
    parts, start, position = [], 0, 0
    while position < len(text):
        if text[position] == separator:
            parts.append(text[start:position])
            start = position + 1
        position += 2 if text[position] == "\\" else 1
    return [*parts, text[start:]]


def _pair(text: str) -> tuple[str, str]:
    parts = _split(text, "=")
    if len(parts) != 2 or not parts[0] or not parts[1]:
        raise ValueError(f"not a tag: {text!r}")
    return _unescape(parts[0]), _unescape(parts[1])


def _unescape(text: str) -> str:
    for escaped, plain in (("\\,", ","), ("\\=", "="), ("\\ ", " ")):
        text = text.replace(escaped, plain)
    return text


def _field_text(line: str, start: int) -> tuple[str, int]:
    position = start
    if line[start : start + 1] == '"':
        _, position = _until(line, start + 1, '"')
        position += 1
    while position < len(line) and line[position] not in ", ":
        position += 1
    return line[start:position], position


def _value(text: str) -> Value:
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if text in ("true", "false"):
        return text == "true"
    number = text.removesuffix("i")
    if not number or not set(number) <= set("0123456789.+-e"):
        raise ValueError(f"not a value: {text!r}")
    if number == text:
        return float(number)
    if not -(2**63) <= int(number) < 2**63:
        raise ValueError(f"out of range: {text!r}")
    return int(number)


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    faults = options.faults.split(",") if options.faults else FAULTS
    async with FaultServer(
        seed=options.seed, rate=options.rate, faults=faults, hang_seconds=options.hang
    ) as server:
        draft = options.port_file.with_suffix(".new")
        draft.write_text(str(server.port), encoding="ascii")
        draft.replace(options.port_file)  # a reader sees the whole number or no file
        await stop.wait()
        print(json.dumps({"seed": options.seed, "faults": server.counts}))


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--hang", type=float, default=1.0, help="seconds a hanging request takes")
    parser.add_argument("--faults", default="", help="comma-separated; default: all of them")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
