"""The values collectors return: what was used, what is left on an account, how full a limit is.

Structs of msgspec, because a scan makes hundreds of thousands of them; their values are checked
once, at the edge that makes them (`agents/`, `providers/`) and again by the ledger's CHECKs.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import msgspec


class Role(enum.StrEnum):
    """Whether a record counts towards totals, or is another view of something already counted."""

    PRIMARY = "primary"
    VIEW = "view"


class Billing(enum.StrEnum):
    """How a record is paid for; decides which money field its list price belongs to."""

    METERED = "metered"  # `cost_usd`
    SUBSCRIPTION = "subscription"  # `api_equivalent_usd`
    UNKNOWN = "unknown"  # `plan_unknown_usd`: list price, plan not known; enters no budget


class Quality(enum.StrEnum):
    """Whether the source stated the numbers or they are an estimate."""

    EXACT = "exact"
    ESTIMATED = "estimated"


class Width(enum.IntEnum):
    """Length in seconds of the interval one record covers."""

    EVENT = 0
    HOUR = 3_600
    DAY = 86_400


class TokenUsagePoint(msgspec.Struct, kw_only=True, array_like=True, gc=False):
    """Tokens of one model call, or of one interval where a source gives only sums.

    The token classes are disjoint and add up: input (uncached) + cache read + cache write + output
    + unsplit. `cache_write_1h_tokens` is part of cache write, `reasoning_tokens` part of output.
    `timestamp` is aware UTC, or integer milliseconds since the epoch. `key` names the call, never
    the file or line it was found in; two points with one key are one call seen twice. Without a
    key the attributes and the timestamp name the interval.
    """

    provider: str
    model: str
    timestamp: int | datetime
    key: str = ""
    variant: str = ""  # tells calls apart that share a key; empty matches any
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    unsplit_tokens: int = 0
    requests: int = 1
    web_search_requests: int = 0
    width: int = 0
    latest: int = 0  # last time seen of a streamed call, milliseconds; 0: same as timestamp
    service_tier: str = ""
    speed: str = ""
    inference_geo: str = ""
    batch: bool = False
    session: str = ""
    project: str = ""
    branch: str = ""
    user: str = ""
    account: str = ""  # set: an account-level record; empty: a record of this host
    billing: str = ""  # a Billing value where the source says so; empty: by setting
    quality: str = "exact"
    replayed: bool = False  # a copy made by a side conversation; gives way to the original
    has_cache_counts: bool = True  # false: `input_tokens` may be the whole prompt
    stated_cost_usd: Decimal | None = None  # what the source itself wrote; audit only
    key_hash: int = 0  # set by `identify`
    variant_hash: int = 0

    def identify(self, source: str) -> None:
        """Turn key and variant into the two 64-bit numbers the ledger knows the call by."""
        key = self.key
        if not key:
            key = "\0".join(
                (
                    self.provider,
                    self.model,
                    self.account,
                    self.user,
                    self.project,
                    self.session,
                    self.service_tier,
                    self.speed,
                    self.inference_geo,
                    f"{self.batch:d} {self.timestamp_ms} {self.width}",
                )
            )
        self.key_hash = hash64(f"{source}\0{key}") or 1
        self.variant_hash = (hash64(self.variant) or 1) if self.variant else 0

    @property
    def timestamp_ms(self) -> int:
        """Milliseconds since the epoch.

        Raises:
            ValueError: the timestamp is a datetime without a zone.
        """
        value = self.timestamp
        if isinstance(value, int):
            return value
        if value.tzinfo is None:
            raise ValueError(
                "timestamp must be aware: datetime.now(UTC) or datetime(..., tzinfo=UTC)"
            )
        return int(value.timestamp() * 1000)

    @property
    def prompt_tokens(self) -> int:
        """Everything sent to the model: OpenTelemetry's `gen_ai.usage.input_tokens`."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def total_tokens(self) -> int:
        """The sum of the disjoint token classes."""
        return self.prompt_tokens + self.output_tokens + self.unsplit_tokens


class BalancePoint(msgspec.Struct, kw_only=True, frozen=True):
    """What is left on one account. Money in `currency`; negative when overdrawn."""

    provider: str
    account: str
    timestamp: datetime
    balance: Decimal
    currency: str = "USD"
    granted: Decimal | None = None
    used: Decimal | None = None
    derived: bool = False  # computed from an anchor, not read from the provider


class LimitPoint(msgspec.Struct, kw_only=True, frozen=True):
    """How full one rate or subscription window is; `used_ratio` 1.0 means exhausted."""

    provider: str
    account: str
    window: str
    timestamp: datetime
    used_ratio: float
    resets_at: datetime | None = None
    plan: str = ""


Point = TokenUsagePoint | BalancePoint | LimitPoint


class Refusal(msgspec.Struct, kw_only=True, frozen=True):
    """A record that was skipped: where and why, never what it said."""

    reason: str
    location: str = ""
    offset: int = 0
    length: int = 0


class Batch(msgspec.Struct, kw_only=True):
    """Points and the cursor that makes them final; stored together or not at all.

    `cursor` maps names of the source's own choosing to small JSON values; a value of None forgets
    the name. `refusals` are listed by `tokendash check`; `skipped` counts them all.
    """

    points: Sequence[Point] = ()
    cursor: dict[str, Any] = msgspec.field(default_factory=dict)
    refusals: list[Refusal] = msgspec.field(default_factory=list)
    skipped: int = 0
    is_checked: bool = False  # a reader of ours made the points and has validated their values


def hash64(text: str) -> int:
    """A signed 64-bit hash that is the same on every machine and run."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def from_ms(milliseconds: int) -> datetime:
    """The aware UTC time of a number of milliseconds since the epoch."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
