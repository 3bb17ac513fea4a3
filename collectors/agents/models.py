"""Who bills a model, told from its name alone; a name no rule knows has no provider."""

from __future__ import annotations

import re
from functools import lru_cache

UNKNOWN = "unknown"

# First match wins. Routing prefixes come before vendors: the router is who bills.
_RULES = tuple(
    (re.compile(pattern), provider)
    for pattern, provider in (
        (r"^(?:\w+\.)?anthropic\.", "aws.bedrock"),
        (r"^(?:us|eu|apac|global)\.\w+\.", "aws.bedrock"),
        (r"^(?:amazon\.)", "aws.bedrock"),
        (r"^claude-.*@\d{8}$", "gcp.vertex_ai"),
        (r"^openrouter/", "openrouter"),
        (r"^(?:anthropic/)?claude", "anthropic"),
        (r"^(?:openai/)?(?:gpt-|chatgpt-|o[134](?:-|$)|codex)", "openai"),
        (r"^(?:google/)?gemini", "gcp.gemini"),
        (r"^(?:moonshot(?:ai)?[/-]|(?:moonshotai/)?kimi)", "moonshot_ai"),
        (r"^(?:x-?ai/)?grok", "x_ai"),
        (r"^(?:deepseek/)?deepseek", "deepseek"),
        (
            r"^(?:mistral(?:ai)?/)?(?:mistral|codestral|devstral|magistral|ministral)",
            "mistral_ai",
        ),
        (r"^(?:qwen/)?(?:qwen|qwq)", "alibaba_cloud"),
        (r"^(?:z-?ai/)?glm-", "z_ai"),
        (r"^(?:minimax/)?minimax", "minimax"),
    )
)


@lru_cache(maxsize=1024)
def provider_of(model: str) -> str:
    """The provider value (OpenTelemetry's) of a model id as an agent wrote it."""
    name = model.lower()
    for pattern, provider in _RULES:
        if pattern.search(name):
            return provider
    return UNKNOWN
