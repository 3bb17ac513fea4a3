"""Price facts that genai-prices does not state, each with its source and how sure it is.

A rule enters here only when a vendor's page (or, marked so, another tool's price table) states
it. Whatever neither the book nor this page knows is unpriced.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

VERSION = "2026-11-24"

DOCUMENTED = "documented by the vendor"
THIRD_PARTY = "another tool's price table"


class Factor(NamedTuple):
    """A multiplier on every token price when an attribute has a value."""

    provider: str
    models: re.Pattern[str]  # the whole undecorated id
    attribute: str  # processing, service_tier, speed or inference_geo
    value: str
    factor: Decimal
    certainty: str
    source: str


class LongContext(NamedTuple):
    """A context step that the book leaves out: above it the whole request costs more."""

    provider: str
    entry: str  # the book's own id of the model
    above: int
    input_factor: Decimal  # also for both kinds of cache use
    output_factor: Decimal
    certainty: str
    source: str


FACTORS = (
    Factor(
        "anthropic", re.compile(r"claude-.*"), "processing", "batch", Decimal("0.5"), DOCUMENTED,
        "platform.claude.com/docs/en/build-with-claude/batch-processing: half of every token"
        " price, caching included; the book starts on 2026-10-14 and leaves out retired models",
    ),
    Factor(
        "anthropic", re.compile(r"claude-opus-4-[67]"), "speed", "fast", Decimal(6), THIRD_PARTY,
        "ccusage's price table: six times; the book knows fast mode from Opus 4.8 on",
    ),
    Factor(
        "anthropic",
        re.compile(r"claude-(?:(?:opus|sonnet)-4-[6-8]|(?:opus|sonnet|haiku|fable|mythos)-5(?:-\d)?)"),
        "inference_geo", "us", Decimal("1.1"), DOCUMENTED,
        "platform.claude.com/docs/en/manage-claude/data-residency: 1.1 times every token price"
        " from Opus 4.6 and Sonnet 4.6 on; older models refuse the parameter",
    ),
)  # fmt: skip

LONG_CONTEXTS = (
    LongContext(
        "anthropic", "claude-sonnet-4-0", 200_000, Decimal(2), Decimal("1.5"), DOCUMENTED,
        "Anthropic's announcement of the 1M-token beta (August 2025): twice the input and one and"
        " a half times the output price above 200k, as the book has it for Sonnet 4.5",
    ),
)  # fmt: skip

# Discounts and surcharges whose recorded start is the day the book began to track them, not the
# day they began: they hold earlier too, as long as the standard price was the same.
BACKDATED = frozenset(
    {
        ("google", "processing", "batch"),
        ("groq", "processing", "batch"),
        ("mistral", "processing", "batch"),
        ("openai", "processing", "batch"),
        ("openai", "service_tier", "fast"),
        ("openai", "service_tier", "flex"),
        ("openai", "service_tier", "priority"),
    }
)

# DeepSeek's page limits its peak hours to Monday to Friday; the book has no weekdays. The page
# also leaves out Chinese public holidays, which are not modelled: on those days the peak hours
# are priced twice too high.
WEEKDAY_HOURS = frozenset(
    {
        ("deepseek", "deepseek-flash"),
        ("deepseek", "deepseek-v4-flash"),
        ("deepseek", "deepseek-v4-pro"),
    }
)

# A model id that ends like this is free by its provider's naming; the book lists it without prices.
FREE_SUFFIX = ":free"


def factor_for(provider: str, model: str, attribute: str, value: str) -> Factor | None:
    """The multiplier for an attribute of a model (its undecorated id), if one is stated."""
    for rule in FACTORS:
        stated = (rule.provider, rule.attribute, rule.value) == (provider, attribute, value)
        if stated and rule.models.fullmatch(model):
            return rule
    return None


def long_context_for(provider: str, entry: str) -> LongContext | None:
    """The context step that the book leaves out for one of its entries, if any."""
    for rule in LONG_CONTEXTS:
        if (rule.provider, rule.entry) == (provider, entry):
            return rule
    return None
