"""How two sightings of one model call become one: pure rules, the same for every order of reading.

Each rule is associative, commutative and idempotent, so cutting a log anywhere, reading it twice or
shuffling its files cannot change what is counted.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from msgspec.structs import replace

from collectors.points import TokenUsagePoint


class Merge(enum.StrEnum):
    """What a source's repeated key means."""

    LARGEST = "largest"  # one call, written again with growing numbers or copied elsewhere
    LATEST = "latest"  # a window the source restates: the newest reading is right
    FILL = "fill"  # an estimate for days that have no record of the same source


def absorb(kept: TokenUsagePoint, other: TokenUsagePoint) -> None:
    """Fold another sighting of the same call into `kept`: largest per field, earliest time.

    Input follows the sighting that has cache counts: a line without them states the whole prompt
    as input. Session, project and branch follow the earliest sighting.
    """
    if kept.has_cache_counts == other.has_cache_counts:
        if other.input_tokens > kept.input_tokens:
            kept.input_tokens = other.input_tokens
    elif other.has_cache_counts:
        kept.input_tokens = other.input_tokens
        kept.has_cache_counts = True
    if other.output_tokens > kept.output_tokens:
        kept.output_tokens = other.output_tokens
    if other.cache_read_tokens > kept.cache_read_tokens:
        kept.cache_read_tokens = other.cache_read_tokens
    if other.cache_write_tokens > kept.cache_write_tokens:
        kept.cache_write_tokens = other.cache_write_tokens
    if other.cache_write_1h_tokens > kept.cache_write_1h_tokens:
        kept.cache_write_1h_tokens = other.cache_write_1h_tokens
    if other.reasoning_tokens > kept.reasoning_tokens:
        kept.reasoning_tokens = other.reasoning_tokens
    if other.unsplit_tokens > kept.unsplit_tokens:
        kept.unsplit_tokens = other.unsplit_tokens
    if other.web_search_requests > kept.web_search_requests:
        kept.web_search_requests = other.web_search_requests
    if other.requests > kept.requests:
        kept.requests = other.requests
    if kept.replayed and not other.replayed:
        kept.replayed = False
    stated = other.stated_cost_usd
    if stated is not None and (kept.stated_cost_usd is None or stated > kept.stated_cost_usd):
        kept.stated_cost_usd = stated
    theirs, mine = other.timestamp_ms, kept.timestamp_ms
    kept.billing = min(kept.billing or other.billing, other.billing or kept.billing)
    kept.latest = max(kept.latest or mine, other.latest or theirs)
    if theirs < mine or (theirs == mine and _identity(other) < _identity(kept)):
        _follow(kept, other)


def _follow(kept: TokenUsagePoint, earlier: TokenUsagePoint) -> None:
    """Take over when and where a call was seen first."""
    kept.timestamp = earlier.timestamp_ms
    kept.provider, kept.model = earlier.provider, earlier.model
    kept.session, kept.project = earlier.session, earlier.project
    kept.branch, kept.user, kept.account = earlier.branch, earlier.user, earlier.account
    kept.service_tier, kept.speed = earlier.service_tier, earlier.speed
    kept.inference_geo, kept.batch = earlier.inference_geo, earlier.batch


def resolve(variants: Mapping[int, TokenUsagePoint]) -> dict[int, TokenUsagePoint]:
    """Say which calls of one key count, given every variant of it that was ever seen.

    - A variant without an id (0) is a sighting of the one that has an id.
    - Replays by a side conversation give way to an original; among replays alone one stays.
    - What is left are different calls and all count.
    """
    named = {variant: point for variant, point in variants.items() if variant}
    originals = {v: p for v, p in named.items() if not p.replayed}
    if originals:
        named = originals
    elif named:
        first = min(named, key=lambda v: (named[v].timestamp_ms, -named[v].total_tokens, v))
        named = {first: named[first]}
    counted = {variant: replace(point) for variant, point in named.items()}
    if 0 not in variants:
        return counted
    unnamed = variants[0]
    if not counted:
        return {0: replace(unnamed)}
    if unnamed.replayed and originals:
        return counted
    if not unnamed.replayed and not originals:
        return {0: replace(unnamed)}
    first = min(counted, key=lambda v: (counted[v].timestamp_ms, v))
    absorb(counted[first], unnamed)
    return counted


def _identity(point: TokenUsagePoint) -> tuple[str | bool, ...]:
    return (
        point.session,
        # A repository that was recognised once stays, also when its folder is gone.
        point.project.startswith("/"),
        point.project,
        point.branch,
        point.model,
        point.provider,
        point.user,
        point.account,
        point.service_tier,
        point.speed,
        point.inference_geo,
    )
