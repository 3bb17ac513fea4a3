"""How the exporter is: points about collectors, spending and the exporter itself, as rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from collectors.insights.spend import Part, Spend
from collectors.measurements import FIELDS, Row, Tags, Value
from collectors.names import canonical

SLOT_SECONDS = 60
_NANO = 1_000_000_000


class CollectorHealth(Protocol):
    """What is reported of one collector."""

    name: str
    consecutive_failures: int
    last_success: float
    records: int
    duration: float
    error: str


@dataclass(frozen=True)
class ExporterState:
    """Figures about the exporter; counts, seconds and bytes."""

    pending: int
    dead_letters: int
    unpriced_tokens: int
    uptime_s: int
    db_bytes: int


class StatusRows:
    """Makes rows whose time is the start of a minute, so that a repeat overwrites itself."""

    def __init__(self, host: str, offset_ns: int, zone: str, version: str) -> None:
        self._host = canonical(host)
        self._offset_ns = offset_ns
        self._zone = zone
        self._version = version
        self._series: dict[tuple[str, Tags], int] = {}
        self._latest_slot = 0

    def rows(
        self,
        now: datetime,
        collectors: Iterable[CollectorHealth],
        spend: Mapping[Part, Spend],
        exporter: ExporterState,
    ) -> list[Row]:
        """All status points of this minute; a clock that slips back within one stays in it."""
        # Of the minute before: with the writer's offset the present one would lie in the future,
        # where queries that end now do not look.
        slot = (int(now.timestamp()) // SLOT_SECONDS - 1) * SLOT_SECONDS
        # Further back is a correction: staying ahead of it would hide the exporter until then.
        if 0 < self._latest_slot - slot <= SLOT_SECONDS:
            slot = self._latest_slot
        self._latest_slot = slot
        found = [self._exporter(slot, exporter)]
        found += [self._collector(slot, now.timestamp(), health) for health in collectors]
        found += [self._spend(slot, part, spent) for part, spent in spend.items()]
        return found

    def _exporter(self, slot: int, state: ExporterState) -> Row:
        return self._row(
            "exporter_status",
            slot,
            {"host": self._host, "tz": self._zone, "version": self._version},
            {
                "heartbeat": 1,
                "pending": state.pending,
                "dead_letters": state.dead_letters,
                "unpriced_tokens": state.unpriced_tokens,
                "uptime_s": state.uptime_s,
                "db_bytes": state.db_bytes,
            },
        )

    def _collector(self, slot: int, now: float, health: CollectorHealth) -> Row:
        values: dict[str, Value] = {
            "ok": int(health.consecutive_failures == 0),
            "consecutive_failures": health.consecutive_failures,
            "records": health.records,
            "duration_ms": round(health.duration * 1000),
            "last_error": health.error,
        }
        if health.last_success:  # an age that is not known is not 0
            values["age_s"] = max(0, round(now - health.last_success))
        tags = {"collector": canonical(health.name), "host": self._host}
        return self._row("collector_status", slot, tags, values)

    def _spend(self, slot: int, part: Part, spent: Spend) -> Row:
        tags = {"scope": part.scope}
        if part.account:
            tags["account"] = part.account
        else:
            tags["host"] = part.host
        return self._row("spend_status", slot, tags, spent.fields())

    def _row(
        self, measurement: str, slot: int, tags: Mapping[str, str], values: Mapping[str, Value]
    ) -> Row:
        pairs: Tags = tuple(sorted(tags.items()))
        # Negative, so that it never meets a series number of the ledger.
        series = self._series.setdefault((measurement, pairs), -1 - len(self._series))
        offset = 0 if "account" in tags else self._offset_ns
        return Row(
            measurement=measurement,
            tags=pairs,
            series=series,
            timestamp_ns=slot * _NANO + offset,
            values=tuple(values.get(field.name) for field in FIELDS[measurement]),
            start=slot,
        )
