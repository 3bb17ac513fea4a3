"""Bring an InfluxDB 2 into service: onboard it, set the bucket's shards, make two scoped tokens.

Every step looks first and changes only what is missing, so it can be killed anywhere and run again.
The one answer that cannot be asked for twice is a new token; a token whose answer was lost is
found by its description and replaced.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import aiohttp

from collectors.errors import SettingsError, TargetError
from influxdb.api import Answer, InfluxApi, UnavailableError, patiently
from influxdb.secret_files import PRIVATE, READABLE, Vault, keep_or_create, read, write_whole

Scope = Literal["write", "read"]

USER = "tokendash"
WEEK = 7 * 24 * 3600
# A year of InfluxDB's default shards (a week each) is twenty times slower to read. One duration for
# the whole bucket: the daily points are so few that shards of their own would gain nothing.
SHARD_SECONDS = 26 * WEEK
DESCRIPTIONS: dict[Scope, str] = {
    "write": "tokendash: exporter, writes the bucket (made by the compose set-up)",
    "read": "tokendash: Grafana, reads the bucket (made by the compose set-up)",
}


@dataclass(frozen=True)
class Tokens:
    """What the stack's services log in to InfluxDB with, and which of them are new."""

    operator: str
    write: str
    read: str
    renewed: frozenset[Scope]


@dataclass(frozen=True)
class Place:
    """The bucket that tokens are scoped to."""

    org: str
    org_id: str
    bucket: str
    bucket_id: str


async def ensure_onboarded(
    url: str,
    secrets: Path,
    *,
    org: str,
    bucket: str,
    retention: int | None = None,
    admin_token: str = "",
    patience: float = 120,
) -> Tokens:
    """Make InfluxDB and the secrets in a folder agree; return the tokens.

    `retention` in seconds (0 keeps everything); None leaves an existing bucket's as it is.
    `admin_token` is tried when the stored operator token is not accepted, and stored if it is.

    Raises:
        TargetError: InfluxDB did not answer within `patience` seconds.
        SettingsError: InfluxDB knows none of our tokens, or not the organisation.
    """
    vault = Vault(secrets)
    vault.prepare()
    # Stored before it is sent: a token that InfluxDB knows is never one that we do not.
    stored = keep_or_create(vault.operator_token, PRIVATE)
    password = keep_or_create(vault.influxdb_password, PRIVATE)
    async with _connected(url) as api:
        await _wait_until_ready(api, patience)
        onboarding = {
            "username": USER,
            "password": password,
            "org": org,
            "bucket": bucket,
            "retentionPeriodSeconds": retention or 0,
            "token": stored,
        }
        await patiently(patience, partial(_onboard, api, onboarding))
        operator, org_id = await patiently(
            patience, partial(_log_in, api, stored, admin_token, org)
        )
        if operator != stored:
            write_whole(vault.operator_token, operator.encode(), PRIVATE)
        bucket_id = await patiently(
            patience, partial(_ensure_bucket, api, operator, org_id, bucket, retention)
        )
        place = Place(org, org_id, bucket, bucket_id)
        write, is_new_write = await patiently(
            patience, partial(_scoped_token, api, operator, place, "write", vault.write_token)
        )
        read_, is_new_read = await patiently(
            patience, partial(_scoped_token, api, operator, place, "read", vault.read_token)
        )
    new: list[tuple[Scope, bool]] = [("write", is_new_write), ("read", is_new_read)]
    return Tokens(operator, write, read_, frozenset(scope for scope, is_new in new if is_new))


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[InfluxApi]:
    # A cookie or a proxy from the environment has no business between two containers.
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as session:
        yield InfluxApi(session, url.rstrip("/"))


async def _wait_until_ready(api: InfluxApi, patience: float) -> None:
    async def healthy() -> None:
        answer = await api.call("GET", "/health")
        if answer.status != 200 or answer.body.get("status", "pass") != "pass":
            raise UnavailableError(f"InfluxDB at {api.url} says of its health: {answer.message}")

    try:
        await patiently(patience, healthy)
    except UnavailableError as error:
        raise TargetError(
            f"waited {patience:g} s for InfluxDB to become healthy; at last: {error}",
            "see `docker compose logs influxdb`: a volume of another user or a newer version and a"
            " full disk are the usual reasons; then `docker compose up -d` again",
        ) from None


async def _onboard(api: InfluxApi, onboarding: Mapping[str, Any]) -> None:
    answer = await api.call("GET", "/api/v2/setup")
    if answer.status != 200 or "allowed" not in answer.body:
        raise SettingsError(
            f"what answers at {api.url} is not an InfluxDB 2 ({answer.status} for /api/v2/setup)",
            "the compose stack brings its own; for another server see influxdb/README.md",
        )
    if not answer.body["allowed"]:
        return
    answer = await api.call("POST", "/api/v2/setup", payload=onboarding)
    # 422: somebody was faster, perhaps we ourselves with an answer that got lost; the log-in tells.
    if answer.status not in (201, 422):
        raise SettingsError(
            f"InfluxDB at {api.url} refused to be set up: {answer.status}, {answer.message}",
            "check INFLUXDB_ORG, INFLUXDB_BUCKET and INFLUXDB_RETENTION",
        )


async def _log_in(api: InfluxApi, stored: str, admin_token: str, org: str) -> tuple[str, str]:
    """The operator token that is accepted, and the organisation's id."""
    for token in filter(None, (stored, admin_token)):
        answer = await api.call("GET", "/api/v2/orgs", token=token, params={"org": org})
        if answer.status == 401:
            continue
        found = [item for item in answer.body.get("orgs", ()) if item.get("name") == org]
        if answer.status == 200 and found:
            return token, str(found[0]["id"])
        raise await _unknown_org(api, token, org, answer)
    raise SettingsError(
        f"InfluxDB at {api.url} is already set up and does not know the operator token of this"
        " stack" + (", nor the one in INFLUXDB_ADMIN_TOKEN" if admin_token else ""),
        _lost_token_cure(org),
    )


def _lost_token_cure(org: str) -> str:
    return (
        "the secrets were removed while the data stayed, or somebody else set this InfluxDB up"
        " first, or the very first set-up was killed half-way. If there is nothing in it to keep"
        " (the ledger sends everything again): `docker compose down`, `docker volume rm"
        " tokendash_influxdb-data tokendash_influxdb-config`, `docker compose up -d`. To keep it:"
        " `docker compose stop influxdb`, `docker compose run --rm --no-deps --entrypoint influxd"
        " influxdb recovery auth create-operator --bolt-path /var/lib/influxdb2/influxd.bolt"
        f" --org {org} --username {USER}`, then `INFLUXDB_ADMIN_TOKEN=<the token it prints>"
        " docker compose up -d`"
    )


async def _unknown_org(api: InfluxApi, token: str, org: str, answer: Answer) -> SettingsError:
    if answer.status not in (200, 404):
        return SettingsError(
            f"InfluxDB at {api.url} refused to look up organisation {org}: {answer.status},"
            f" {answer.message}",
            "the token must be an operator token",
        )
    everything = await api.call("GET", "/api/v2/orgs", token=token)
    names = sorted(str(item.get("name")) for item in everything.body.get("orgs", ()))
    return SettingsError(
        f"InfluxDB at {api.url} has no organisation {org}; it has: {', '.join(names) or 'none'}",
        "set INFLUXDB_ORG to one of these, or create it with `influx org create`",
    )


def shard_seconds(retention: int) -> int:
    """Length of a shard: half a year, but never longer than what is kept at all."""
    return min(SHARD_SECONDS, retention) if retention else SHARD_SECONDS


def _rule(retention: int) -> dict[str, Any]:
    return {
        "type": "expire",
        "everySeconds": retention,
        "shardGroupDurationSeconds": shard_seconds(retention),
    }


async def _ensure_bucket(
    api: InfluxApi, token: str, org_id: str, bucket: str, retention: int | None
) -> str:
    """The bucket's id, after its shards and its retention are as they should be."""
    path = "/api/v2/buckets"
    answer = await api.call("GET", path, token=token, params={"orgID": org_id, "name": bucket})
    found = [item for item in answer.body.get("buckets", ()) if item.get("name") == bucket]
    if answer.status == 404 or (answer.status == 200 and not found):
        wanted = {"orgID": org_id, "name": bucket, "retentionRules": [_rule(retention or 0)]}
        return str((await api.expect(201, "POST", path, token=token, payload=wanted))["id"])
    if answer.status != 200:
        raise SettingsError(
            f"InfluxDB at {api.url} refused to look up bucket {bucket}: {answer.status},"
            f" {answer.message}",
            "the token must be an operator token",
        )
    rules = found[0].get("retentionRules") or [{}]
    present = (
        int(rules[0].get("everySeconds", 0)),
        int(rules[0].get("shardGroupDurationSeconds", 0)),
    )
    kept = present[0] if retention is None else retention
    if present != (kept, shard_seconds(kept)):
        change = {"retentionRules": [_rule(kept)]}
        await api.expect(200, "PATCH", f"{path}/{found[0]['id']}", token=token, payload=change)
    return str(found[0]["id"])


async def _scoped_token(
    api: InfluxApi, operator: str, place: Place, scope: Scope, path: Path
) -> tuple[str, bool]:
    """A living token for one purpose, and whether it is a new one.

    Tokens are shown only when they are made. So the stored one stays as long as it is the only one
    of its kind, fits the bucket and is accepted; otherwise every one of its kind goes before a new
    one comes, and a run killed in between leaves at most one that the next run removes.
    """
    answer = await api.expect(
        200, "GET", "/api/v2/authorizations", token=operator, params={"orgID": place.org_id}
    )
    ours = [
        item
        for item in answer.get("authorizations", ())
        if item.get("description") == DESCRIPTIONS[scope]
    ]
    stored = read(path)
    if (
        stored
        and len(ours) == 1
        and _fits(ours[0], scope, place)
        and await _is_accepted(api, stored, scope, place)
    ):
        return stored, False
    for item in ours:
        gone = await api.call("DELETE", f"/api/v2/authorizations/{item['id']}", token=operator)
        if gone.status not in (204, 404):
            raise SettingsError(
                f"InfluxDB at {api.url} refused to remove an old {scope} token: {gone.status},"
                f" {gone.message}",
                "the token must be an operator token",
            )
    resource = {"type": "buckets", "id": place.bucket_id, "orgID": place.org_id}
    wanted = {
        "orgID": place.org_id,
        "description": DESCRIPTIONS[scope],
        "permissions": [{"action": scope, "resource": resource}],
    }
    made = await api.expect(201, "POST", "/api/v2/authorizations", token=operator, payload=wanted)
    token = str(made["token"])
    write_whole(path, token.encode(), READABLE)
    return token, True


def _fits(authorization: Mapping[str, Any], scope: Scope, place: Place) -> bool:
    permissions = [
        (item["action"], item["resource"].get("type"), item["resource"].get("id"))
        for item in authorization.get("permissions", ())
    ]
    return authorization.get("status") == "active" and permissions == [
        (scope, "buckets", place.bucket_id)
    ]


async def _is_accepted(api: InfluxApi, token: str, scope: Scope, place: Place) -> bool:
    if scope == "write":
        # Nothing is written: a living token is told that points are missing.
        where = {"org": place.org, "bucket": place.bucket}
        answer = await api.call("POST", "/api/v2/write", token=token, params=where)
    else:
        question = {"db": place.bucket, "q": "SHOW MEASUREMENTS"}
        answer = await api.call("GET", "/query", token=token, params=question)
    return answer.status not in (401, 403)
