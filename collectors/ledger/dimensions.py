"""What a record is counted under: series, and the tags a series is sent with."""

from __future__ import annotations

import hashlib
import json
import socket
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from collectors.names import canonical
from collectors.points import Role, TokenUsagePoint, hash64

OTHER = "(other)"
NO_PROJECT = "none"
OFFSET_SPAN_NS = 60_000_000_000


@dataclass(frozen=True)
class TagPolicy:
    """Which tags are written and how a project is named outside the ledger."""

    host: str = ""
    project: str = "name"  # name, hash, off
    names: Sequence[str] = ("provider", "source", "model", "project", "host", "account")
    budget: int = 500

    def fingerprint(self) -> str:
        """Changes when any series might be tagged differently."""
        return json.dumps([self.project, sorted(self.names), self.budget])


class Series(NamedTuple):
    """The dimensions totals are kept by. Exactly one of host and account is set."""

    source: str
    provider: str
    model: str
    project: str
    host: str
    account: str
    role: str


Tags = tuple[tuple[str, str], ...]


def project_name(project: str, mode: str) -> str:
    """A project as it appears outside the ledger: last part of its path or remote, or a hash."""
    if not project:
        return NO_PROJECT
    if mode == "hash":
        return hashlib.sha256(project.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return canonical(project.rstrip("/").rpartition("/")[2] or project)


def tags_of(series: Series, policy: TagPolicy) -> Tags:
    """The tags of a series under a policy, sorted by name."""
    tags = {"provider": series.provider, "source": series.source, "model": series.model}
    if policy.project != "off":
        tags["project"] = project_name(series.project, policy.project)
    if series.account:
        tags["account"] = series.account
    else:
        tags["host"] = series.host
    allowed = set(policy.names)
    return tuple(sorted((name, value) for name, value in tags.items() if name in allowed))


def machine_id(root: Path = Path("/")) -> str:
    """Something that stays with this machine and does not travel with a copied ledger."""
    for path in ("etc/machine-id", "var/lib/dbus/machine-id"):
        try:
            text = (root / path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text:
            return text
    return f"host:{socket.gethostname()}"


def writer_offset(name: str) -> int:
    """Nanoseconds a writer adds to every bucket, so that two writers never make one point."""
    return hash64(f"writer {name}") % OFFSET_SPAN_NS


class Dimensions:
    """Small integers for series, tags, contexts and tariffs, remembered while a ledger is open."""

    def __init__(self, db: sqlite3.Connection, policy: TagPolicy, machine: str) -> None:
        self._db = db
        self.policy = policy
        self.writer = self._find_writer(machine)
        self.offset_ns = int(
            db.execute("SELECT offset_ns FROM writer WHERE id=?", (self.writer,)).fetchone()[0]
        )
        self._ids: dict[tuple[str, ...], int] = {}
        self._series: dict[int, Series] = {}
        self._contexts: dict[tuple[str, str, str], int] = {}
        self._context_of: dict[int, tuple[str, str, str]] = {}
        self._tariffs: dict[tuple[str, str, str, bool], int] = {}
        self._tariff_of: dict[int, tuple[str, str, str, bool]] = {}
        self._tagset_of: dict[int, int] = {}
        self._prices: dict[str, int] = {}

    def forget(self) -> None:
        """Drop what was remembered: after a rollback some of it does not exist."""
        for memory in (
            self._ids,
            self._series,
            self._contexts,
            self._context_of,
            self._tariffs,
            self._tariff_of,
            self._tagset_of,
            self._prices,
        ):
            memory.clear()

    def _find_writer(self, machine: str) -> int:
        # Hashed: a machine id is nobody's business outside this machine.
        machine = hashlib.sha256(f"tokendash {machine}".encode()).hexdigest()[:32]
        row = self._db.execute("SELECT id FROM writer WHERE machine=?", (machine,)).fetchone()
        if row:
            return int(row[0])
        name = str(uuid.uuid4())
        cursor = self._db.execute(
            "INSERT INTO writer(uuid, machine, offset_ns) VALUES(?,?,?)",
            (name, machine, writer_offset(name)),
        )
        return int(cursor.lastrowid or 0)

    def series_of(self, source: str, point: TokenUsagePoint, role: Role) -> int:
        """The series a point is counted in, made when new."""
        key = (source, point.provider, point.model, point.project, point.account, role)
        found = self._ids.get(key)
        if found is None:
            account = canonical(point.account) if point.account else ""
            found = self._ids[key] = self._make_series(
                Series(
                    source,
                    canonical(point.provider),
                    canonical(point.model),
                    canonical(point.project) if point.project else "",
                    "" if account else canonical(self.policy.host),
                    account,
                    role,
                )
            )
        return found

    def _make_series(self, series: Series) -> int:
        writer = 0 if series.account else self.writer
        row = self._db.execute(
            "SELECT id FROM series WHERE source=? AND provider=? AND model=? AND project=?"
            " AND host=? AND account=? AND role=? AND writer=?",
            (*series, writer),
        ).fetchone()
        if row:
            return int(row[0])
        tagset = self.tagset_for(series, writer)
        cursor = self._db.execute(
            "INSERT INTO series(source, provider, model, project, host, account, role, writer,"
            " tagset) VALUES(?,?,?,?,?,?,?,?,?)",
            (*series, writer, tagset),
        )
        return int(cursor.lastrowid or 0)

    def series(self, number: int) -> Series:
        """The dimensions behind a series' number."""
        found = self._series.get(number)
        if found is None:
            row = self._db.execute(
                "SELECT source, provider, model, project, host, account, role FROM series"
                " WHERE id=?",
                (number,),
            ).fetchone()
            found = self._series[number] = Series(*row)
        return found

    def settled(self, old: int, new: int) -> int:
        """The series a record stays in: a move to another host alone moves no history.

        A ledger copied to another machine, or a container with a new name, reads the same logs
        again; what was counted and sent keeps its place and its writer's offset.
        """
        before, after = self.series(old), self.series(new)
        return old if before == after._replace(host=before.host) else new

    def tagset_of(self, series: int) -> int:
        """The tags a series is sent with now."""
        found = self._tagset_of.get(series)
        if found is None:
            row = self._db.execute("SELECT tagset FROM series WHERE id=?", (series,)).fetchone()
            found = self._tagset_of[series] = int(row[0])
        return found

    def tagset_for(self, series: Series, writer: int) -> int:
        """The tag set of a series, within the budget of series this writer may make."""
        tags = tags_of(series, self.policy)
        found = self._find_tagset(tags, writer)
        if found is None and self._tagset_count(writer) >= self.policy.budget:
            # First seen stay: the cap is on new names only.
            for hidden in ({"project"}, {"project", "model"}):
                tags = tuple((name, OTHER if name in hidden else value) for name, value in tags)
                found = self._find_tagset(tags, writer)
                if found is not None:
                    break
        return found if found is not None else self.make_tagset(tags, writer)

    def make_tagset(self, tags: Tags, writer: int) -> int:
        """The number of exactly these tags, made when new."""
        found = self._find_tagset(tags, writer)
        if found is not None:
            return found
        cursor = self._db.execute(
            "INSERT INTO tagset(tags, writer) VALUES(?,?)", (_encode(tags), writer)
        )
        return int(cursor.lastrowid or 0)

    def _find_tagset(self, tags: Tags, writer: int) -> int | None:
        row = self._db.execute(
            "SELECT id FROM tagset WHERE tags=? AND writer=?", (_encode(tags), writer)
        ).fetchone()
        return int(row[0]) if row else None

    def _tagset_count(self, writer: int) -> int:
        row = self._db.execute(
            "SELECT count(DISTINCT tagset) FROM series WHERE writer=? AND tagset<>0", (writer,)
        ).fetchone()
        return int(row[0])

    def context_of(self, session: str, branch: str, user: str) -> int:
        """The number of a session, branch and user; 0 when all are empty."""
        key = (session, branch, user)
        found = self._contexts.get(key)
        if found is None:
            found = self._contexts[key] = self._intern(
                "context", ("session", "branch", "user"), tuple(_clean(text) for text in key)
            )
        return found

    def context(self, number: int) -> tuple[str, str, str]:
        """Session, branch and user behind a number."""
        found = self._context_of.get(number)
        if found is None:
            row = self._db.execute(
                "SELECT session, branch, user FROM context WHERE id=?", (number,)
            ).fetchone()
            found = self._context_of[number] = (row[0], row[1], row[2]) if row else ("", "", "")
        return found

    def tariff_of(self, point: TokenUsagePoint) -> int:
        """The number of the attributes that price a point; 0 when all are usual."""
        key = (point.service_tier, point.speed, point.inference_geo, point.batch)
        found = self._tariffs.get(key)
        if found is None:
            columns = ("service_tier", "speed", "inference_geo", "batch")
            values: tuple[str | int, ...] = (
                _clean(point.service_tier),
                _clean(point.speed),
                _clean(point.inference_geo),
                int(point.batch),
            )
            found = self._tariffs[key] = self._intern("tariff", columns, values)
        return found

    def tariff(self, number: int) -> tuple[str, str, str, bool]:
        """Service tier, speed, geography and batch behind a number."""
        found = self._tariff_of.get(number)
        if found is None:
            row = self._db.execute(
                "SELECT service_tier, speed, inference_geo, batch FROM tariff WHERE id=?", (number,)
            ).fetchone()
            found = (row[0], row[1], row[2], bool(row[3])) if row else ("", "", "", False)
            self._tariff_of[number] = found
        return found

    def price_of(self, name: str) -> int:
        """The number of a price's name."""
        found = self._prices.get(name)
        if found is None:
            found = self._prices[name] = self._intern("price", ("name",), (name,))
        return found

    def _intern(self, table: str, columns: tuple[str, ...], values: tuple[str | int, ...]) -> int:
        if not any(values):
            return 0
        where = " AND ".join(f"{column}=?" for column in columns)
        row = self._db.execute(f"SELECT id FROM {table} WHERE {where}", values).fetchone()
        if row:
            return int(row[0])
        marks = ",".join("?" * len(columns))
        cursor = self._db.execute(
            f"INSERT INTO {table}({','.join(columns)}) VALUES({marks})",
            values,
        )
        return int(cursor.lastrowid or 0)


def _clean(text: str) -> str:
    return canonical(text) if text else ""


def _encode(tags: Tags) -> str:
    return json.dumps(tags, ensure_ascii=False, separators=(",", ":"))


def decode_tags(text: str) -> Tags:
    """Tags as stored in the ledger."""
    return tuple((name, value) for name, value in json.loads(text))
