"""An InfluxDB 2.9 as far as tokendash can tell: its HTTP API with its permissions and its errors.

Tokens are kept hashed and shown only in the answer that makes them. `intercept` may answer instead
of the server before a request is applied, or after (a lost acknowledgement), or kill who asked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

Moment = Literal["before", "after"]
Value = bool | int | float | str
PointKey = tuple[str, frozenset[tuple[str, str]], int]
Intercept = Callable[[Moment, web.Request], Awaitable[web.StreamResponse | None]]

OPERATOR_TYPES = ("authorizations", "buckets", "orgs", "users", "dashboards", "tasks", "dbrp")
PRECISIONS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
DAY = 86_400
STATUS = {
    "invalid": 400,
    "empty value": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not found": 404,
    "method not allowed": 405,
    "request too large": 413,
    "unprocessable entity": 422,
    "conflict": 422,
    "internal error": 500,
}


class ApiError(Exception):
    """What the server answers with instead of a result."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Bucket:
    """A bucket with its retention and shard length in seconds (0: for ever)."""

    id: str
    org_id: str
    name: str
    kind: str = "user"
    retention: int = 0
    shard: int = 7 * DAY
    points: dict[PointKey, dict[str, Value]] = field(default_factory=dict)
    types: dict[tuple[str, str], str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The bucket as the API shows it."""
        return {
            "id": self.id,
            "orgID": self.org_id,
            "type": self.kind,
            "name": self.name,
            "retentionRules": [
                {
                    "type": "expire",
                    "everySeconds": self.retention,
                    "shardGroupDurationSeconds": self.shard,
                }
            ],
            "labels": [],
        }


@dataclass
class Authorization:
    """A token's rights; of the token itself only the hash is kept."""

    id: str
    org_id: str
    description: str
    permissions: list[dict[str, Any]]
    token_hash: str
    status: str = "active"

    def allows(self, action: str, kind: str, org_id: str, item: str | None = None) -> bool:
        """Whether one of the permissions covers an action on a resource."""
        for permission in self.permissions:
            resource = permission["resource"]
            if (
                permission["action"] == action
                and resource["type"] == kind
                and resource.get("orgID") in (None, org_id)
                and resource.get("id") in (None, item)
            ):
                return True
        return False

    def as_json(self, token: str = "") -> dict[str, Any]:
        """The authorization as the API shows it."""
        return {
            "id": self.id,
            "token": token,
            "status": self.status,
            "description": self.description,
            "orgID": self.org_id,
            "permissions": self.permissions,
        }


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _new_id() -> str:
    return secrets.token_hex(8)


def _server_shard(retention: int) -> int:
    if retention == 0 or retention >= 180 * DAY:
        return 7 * DAY
    return DAY if retention >= 2 * DAY else 3600


class FakeInflux2:
    """One server and everything it knows; tests read and change its fields."""

    def __init__(self, intercept: Intercept | None = None) -> None:
        self.intercept = intercept
        self.users: dict[str, str] = {}
        self.orgs: dict[str, str] = {}
        self.buckets: dict[str, Bucket] = {}
        self.authorizations: dict[str, Authorization] = {}
        self.requests: list[tuple[str, str]] = []
        self.sent_tokens: list[str] = []
        self.is_healthy = True

    def app(self) -> web.Application:
        """The server as an aiohttp application."""
        app = web.Application(middlewares=[self._middleware], client_max_size=1 << 26)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/ping", self._ping),
                web.get("/api/v2/setup", self._is_setup_allowed),
                web.post("/api/v2/setup", self._set_up),
                web.get("/api/v2/orgs", self._list_orgs),
                web.get("/api/v2/buckets", self._list_buckets),
                web.post("/api/v2/buckets", self._create_bucket),
                web.patch("/api/v2/buckets/{id}", self._change_bucket),
                web.get("/api/v2/authorizations", self._list_authorizations),
                web.post("/api/v2/authorizations", self._create_authorization),
                web.delete("/api/v2/authorizations/{id}", self._delete_authorization),
                web.post("/api/v2/write", self._write),
                web.get("/query", self._query),
                web.post("/query", self._query),
            ]
        )
        return app

    def described(self, description: str) -> list[Authorization]:
        """All authorizations with this description."""
        return [item for item in self.authorizations.values() if item.description == description]

    def holder(self, token: str) -> Authorization | None:
        """The authorization a token belongs to."""
        digest = _hash(token)
        for item in self.authorizations.values():
            if item.token_hash == digest:
                return item
        return None

    def points(self, bucket: str) -> dict[PointKey, dict[str, Value]]:
        """What a bucket holds: the last value per series, time and field."""
        [found] = [item for item in self.buckets.values() if item.name == bucket]
        return found.points

    # requests

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if self.intercept and (answer := await self.intercept("before", request)) is not None:
            return answer
        try:
            response = await handler(request)
        except ApiError as error:
            body = {"code": error.code, "message": error.message}
            response = web.json_response(body, status=STATUS[error.code])
        except web.HTTPNotFound:
            body = {"code": "not found", "message": "path not found"}
            response = web.json_response(body, status=404)
        response.headers["X-Influxdb-Build"] = "OSS"
        response.headers["X-Influxdb-Version"] = "v2.9.1"
        if self.intercept and (answer := await self.intercept("after", request)) is not None:
            return answer
        return response

    def _login(self, request: web.Request) -> Authorization:
        token = _token_of(request)
        if token:
            self.sent_tokens.append(token)
            found = self.holder(token)
            if found is not None and found.status == "active":
                return found
        raise ApiError("unauthorized", "unauthorized access")

    @staticmethod
    def _require(
        auth: Authorization, action: str, kind: str, org_id: str, item: str | None = None
    ) -> None:
        if not auth.allows(action, kind, org_id, item):
            path = f"orgs/{org_id}/{kind}" + (f"/{item}" if item else "")
            raise ApiError("unauthorized", f"{action}:{path} is unauthorized")

    async def _health(self, request: web.Request) -> web.Response:
        body = {"name": "influxdb", "checks": [], "version": "v2.9.1", "commit": "fake"}
        if not self.is_healthy:
            return web.json_response(body | {"message": "starting", "status": "fail"}, status=503)
        return web.json_response(
            body | {"message": "ready for queries and writes", "status": "pass"}
        )

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    # onboarding

    async def _is_setup_allowed(self, request: web.Request) -> web.Response:
        return web.json_response({"allowed": not self.users and not self.orgs})

    async def _set_up(self, request: web.Request) -> web.Response:
        wanted = await _json_body(request)
        if self.users or self.orgs:
            raise ApiError("conflict", "onboarding has already been completed")
        if not all(wanted.get(key) for key in ("username", "password", "org", "bucket")):
            raise ApiError("empty value", "onboard failed, missing value")
        if not 8 <= len(wanted["password"]) <= 72:
            raise ApiError("invalid", "passwords must be between 8 and 72 characters long")
        token = wanted.get("token") or _make_token()
        self.sent_tokens.append(token)
        bucket, auth = self.onboard(
            wanted["username"],
            wanted["org"],
            wanted["bucket"],
            token,
            int(wanted.get("retentionPeriodSeconds", 0)),
        )
        body = {
            "user": {"id": _new_id(), "name": wanted["username"], "status": "active"},
            "org": {"id": bucket.org_id, "name": wanted["org"]},
            "bucket": bucket.as_json(),
            "auth": auth.as_json(token),
        }
        return web.json_response(body, status=201)

    def onboard(
        self, user: str, org: str, bucket: str, token: str, retention: int = 0
    ) -> tuple[Bucket, Authorization]:
        """Make the first user, organisation, bucket and operator token."""
        org_id = _new_id()
        self.users[user] = _new_id()
        self.orgs[org_id] = org
        for name, seconds in (("_tasks", 3 * DAY), ("_monitoring", 7 * DAY)):
            system = Bucket(_new_id(), org_id, name, "system", seconds, DAY)
            self.buckets[system.id] = system
        made = Bucket(_new_id(), org_id, bucket, "user", retention, _server_shard(retention))
        self.buckets[made.id] = made
        permissions = [
            {"action": action, "resource": {"type": kind}}
            for kind in OPERATOR_TYPES
            for action in ("read", "write")
        ]
        return made, self._add_authorization(org_id, f"{user}'s Token", permissions, token)

    def _add_authorization(
        self, org_id: str, description: str, permissions: list[dict[str, Any]], token: str
    ) -> Authorization:
        made = Authorization(_new_id(), org_id, description, permissions, _hash(token))
        self.authorizations[made.id] = made
        return made

    # organisations, buckets, authorizations

    async def _list_orgs(self, request: web.Request) -> web.Response:
        auth = self._login(request)
        name = request.query.get("org")
        if name and name not in self.orgs.values():
            raise ApiError("not found", f'organization name "{name}" not found')
        found = [
            {"id": key, "name": value}
            for key, value in self.orgs.items()
            if name in (None, "", value) and auth.allows("read", "orgs", key, key)
        ]
        return web.json_response({"links": {"self": "/api/v2/orgs"}, "orgs": found})

    async def _list_buckets(self, request: web.Request) -> web.Response:
        auth = self._login(request)
        org_id, name = request.query.get("orgID"), request.query.get("name")
        found = [
            item
            for item in self.buckets.values()
            if org_id in (None, item.org_id) and name in (None, item.name)
        ]
        if org_id and name and not found:
            raise ApiError("not found", f'bucket "{name}" not found')
        shown = [
            item.as_json() for item in found if auth.allows("read", "buckets", item.org_id, item.id)
        ]
        return web.json_response({"links": {"self": "/api/v2/buckets"}, "buckets": shown})

    async def _create_bucket(self, request: web.Request) -> web.Response:
        auth = self._login(request)
        wanted = await _json_body(request)
        org_id, name = wanted.get("orgID"), wanted.get("name", "")
        if org_id not in self.orgs:
            raise ApiError("invalid", "organization id must be provided")
        self._require(auth, "write", "buckets", org_id)
        if name.startswith("_"):
            raise ApiError("invalid", f"bucket name {name} is invalid")
        if any(item.name == name and item.org_id == org_id for item in self.buckets.values()):
            raise ApiError("conflict", f"bucket with name {name} already exists")
        made = Bucket(_new_id(), org_id, name)
        rules = wanted.get("retentionRules") or [{"everySeconds": 0}]
        _apply_rules(made, rules)
        self.buckets[made.id] = made
        return web.json_response(made.as_json(), status=201)

    async def _change_bucket(self, request: web.Request) -> web.Response:
        auth = self._login(request)
        found = self.buckets.get(request.match_info["id"])
        if found is None:
            raise ApiError("not found", "bucket not found")
        self._require(auth, "write", "buckets", found.org_id, found.id)
        _apply_rules(found, (await _json_body(request)).get("retentionRules") or [])
        return web.json_response(found.as_json())

    async def _list_authorizations(self, request: web.Request) -> web.Response:
        auth = self._login(request)
        org_id = request.query.get("orgID")
        shown = [
            item.as_json()
            for item in self.authorizations.values()
            if org_id in (None, item.org_id)
            and auth.allows("read", "authorizations", item.org_id, item.id)
        ]
        return web.json_response(
            {"links": {"self": "/api/v2/authorizations"}, "authorizations": shown}
        )

    async def _create_authorization(self, request: web.Request) -> web.Response:
        auth = self._login(request)
        wanted = await _json_body(request)
        permissions = wanted.get("permissions") or []
        if not permissions:
            raise ApiError("invalid", "authorization must include permissions")
        org_id = wanted.get("orgID")
        if org_id not in self.orgs:
            raise ApiError("invalid", "org id required")
        self._require(auth, "write", "authorizations", org_id)
        for item in permissions:
            resource = item["resource"]
            if not auth.allows(item["action"], resource["type"], org_id, resource.get("id")):
                raise ApiError("forbidden", f"permission {item['action']} is not allowed")
        token = _make_token()
        made = self._add_authorization(org_id, wanted.get("description", ""), permissions, token)
        return web.json_response(made.as_json(token), status=201)

    async def _delete_authorization(self, request: web.Request) -> web.Response:
        auth = self._login(request)
        found = self.authorizations.get(request.match_info["id"])
        if found is None:
            raise ApiError("not found", "authorization not found")
        self._require(auth, "write", "authorizations", found.org_id, found.id)
        del self.authorizations[found.id]
        return web.Response(status=204)

    # data

    def _place(self, request: web.Request) -> Bucket:
        org, name = request.query.get("org"), request.query.get("bucket")
        if not name:
            raise ApiError("not found", "bucket not found")
        org_ids = [key for key, value in self.orgs.items() if org in (key, value)]
        if not org_ids:
            raise ApiError("not found", f'organization name "{org}" not found')
        for item in self.buckets.values():
            if item.org_id == org_ids[0] and name in (item.id, item.name):
                return item
        raise ApiError("not found", f'bucket "{name}" not found')

    async def _write(self, request: web.Request) -> web.Response:
        auth = self._login(request)
        unit = PRECISIONS.get(request.query.get("precision") or "ns")
        if unit is None:
            raise ApiError(
                "invalid", "invalid precision; valid precision units are ns, us, ms, and s"
            )
        bucket = self._place(request)
        if not auth.allows("write", "buckets", bucket.org_id, bucket.id):
            raise ApiError("forbidden", "insufficient permissions for write")
        body = await request.read()
        if not body:
            raise ApiError("invalid", "writing requires points")
        # One malformed line and nothing of the batch is stored.
        points = list(parse_lines(body.decode(), unit))
        refused = [reason for reason in (_store(bucket, *point) for point in points) if reason]
        if refused:
            raise ApiError(
                "unprocessable entity",
                f"failure writing points to database: partial write: {refused[0]}"
                f" dropped={len(refused)}",
            )
        return web.Response(status=204)

    async def _query(self, request: web.Request) -> web.Response:
        form = await request.post() if request.method == "POST" else {}
        asked = {**request.query, **{key: str(value) for key, value in form.items()}}
        auth = self._login(request)
        results = []
        for number, statement in enumerate(asked.get("q", "").split(";")):
            results.append(
                {"statement_id": number} | self._run(auth, asked.get("db", ""), statement)
            )
        return web.json_response({"results": results})

    def _run(self, auth: Authorization, database: str, statement: str) -> dict[str, Any]:
        readable = [
            item
            for item in self.buckets.values()
            if item.name == database and auth.allows("read", "buckets", item.org_id, item.id)
        ]
        if not readable:
            return {"error": f"database not found: {database}"}
        if not re.fullmatch(r"\s*show\s+measurements\s*", statement, re.IGNORECASE):
            return {"error": "the fake server answers SHOW MEASUREMENTS only"}
        names = sorted({key[0] for key in readable[0].points})
        if not names:
            return {}
        values = [[name] for name in names]
        return {"series": [{"name": "measurements", "columns": ["name"], "values": values}]}


def _make_token() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(64)).decode()


def _token_of(request: web.Request) -> str:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() in ("token", "bearer"):
        return value.strip()
    if scheme.lower() == "basic":
        return base64.b64decode(value).decode().partition(":")[2]
    return request.query.get("p", "")


async def _json_body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ApiError("invalid", "invalid json structure")
    return body


def _apply_rules(bucket: Bucket, rules: list[Mapping[str, Any]]) -> None:
    if len(rules) > 1:
        raise ApiError(
            "unprocessable entity", "buckets cannot have more than one retention rule at this time"
        )
    for rule in rules:
        retention = int(rule.get("everySeconds", bucket.retention))
        shard = int(rule.get("shardGroupDurationSeconds", bucket.shard))
        if retention < 0:
            raise ApiError("unprocessable entity", "expiration seconds cannot be negative")
        if shard < 0:
            raise ApiError(
                "unprocessable entity", "shard-group duration seconds cannot be negative"
            )
        if 0 < retention < shard:
            raise ApiError(
                "unprocessable entity",
                "shard-group duration must also be updated to be smaller than new retention"
                " duration",
            )
        bucket.retention, bucket.shard = retention, shard or _server_shard(retention)


def _store(bucket: Bucket, key: PointKey, fields: Mapping[str, Value]) -> str:
    """Store a point; the reason when it is refused."""
    measurement, _, timestamp = key
    if bucket.retention and timestamp < time.time_ns() - bucket.retention * 1_000_000_000:
        return "points beyond retention policy"
    for name, value in fields.items():
        kind = {bool: "boolean", int: "integer", float: "float", str: "string"}[type(value)]
        known = bucket.types.get((measurement, name), kind)
        if known != kind:
            return (
                f'field type conflict: input field "{name}" on measurement "{measurement}"'
                f" is type {kind}, already exists as type {known}"
            )
    for name, value in fields.items():
        kind = {bool: "boolean", int: "integer", float: "float", str: "string"}[type(value)]
        bucket.types[measurement, name] = kind
    bucket.points.setdefault(key, {}).update(fields)
    return ""


def parse_lines(text: str, unit: int = 1) -> Iterable[tuple[PointKey, dict[str, Value]]]:
    """Line protocol as points; times in nanoseconds."""
    for line in text.split("\n"):
        if line.strip() and not line.startswith("#"):
            yield _parse_line(line, unit)


def _parse_line(line: str, unit: int) -> tuple[PointKey, dict[str, Value]]:
    # Quotes mean something in field values only; in tags they are ordinary letters.
    series, *rest = _split(line, " ", limit=1)
    parts = [series, *(_split(rest[0], " ", has_quotes=True) if rest else ())]
    if len(parts) not in (2, 3) or not parts[1]:
        raise ApiError("invalid", f"unable to parse '{line}': missing fields")
    measurement, *tags = _split(series, ",")
    fields = {}
    for item in _split(parts[1], ",", has_quotes=True):
        name, separator, raw = _cut(item)
        if not separator or not name:
            raise ApiError("invalid", f"unable to parse '{line}': invalid field format")
        fields[name] = _field_value(line, raw)
    try:
        timestamp = int(parts[2]) * unit if len(parts) == 3 else time.time_ns()
    except ValueError:
        raise ApiError("invalid", f"unable to parse '{line}': bad timestamp") from None
    if not -(2**63) < timestamp < 2**63:
        raise ApiError("invalid", f"unable to parse '{line}': time outside range")
    pairs = []
    for item in tags:
        name, separator, value = _cut(item)
        if not separator or not name or not value:
            raise ApiError("invalid", f"unable to parse '{line}': missing tag value")
        pairs.append((name, _unescape(value)))
    return (_unescape(measurement), frozenset(pairs), timestamp), fields


def _split(text: str, separator: str, *, has_quotes: bool = False, limit: int = 0) -> list[str]:
    """Split where the separator is neither escaped nor inside a quoted field value."""
    parts, start, is_quoted, is_escaped = [], 0, False, False
    for place, letter in enumerate(text):
        if letter == '"' and has_quotes and not is_escaped:
            is_quoted = not is_quoted
        elif letter == separator and not is_quoted and not is_escaped:
            parts.append(text[start:place])
            start = place + 1
            if limit and len(parts) == limit:
                break
        is_escaped = letter == "\\" and not is_escaped
    return [*parts, text[start:]]


def _cut(item: str) -> tuple[str, str, str]:
    found = re.match(r"((?:[^=\\]|\\.)*)(=)(.*)$", item, re.DOTALL)
    return (_unescape(found[1]), found[2], found[3]) if found else (item, "", "")


def _unescape(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text)


def _field_value(line: str, raw: str) -> Value:
    if re.fullmatch(r"-?\d+i", raw):
        number = int(raw[:-1])
        if -(2**63) <= number < 2**63:
            return number
    elif re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", raw):
        return float(raw)
    elif len(raw) > 1 and raw[0] == raw[-1] == '"':
        return re.sub(r'\\(["\\])', r"\1", raw[1:-1])
    elif raw in ("t", "T", "true", "True", "TRUE"):
        return True
    elif raw in ("f", "F", "false", "False", "FALSE"):
        return False
    raise ApiError("invalid", f"unable to parse '{line}': invalid number")


@asynccontextmanager
async def serve(fake: FakeInflux2) -> AsyncIterator[str]:
    """Run the server on a free loopback port; gives its address."""
    runner = web.AppRunner(fake.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
