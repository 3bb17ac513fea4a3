"""Who bills a model, from its name alone."""

from __future__ import annotations

import pytest

from collectors.agents.models import UNKNOWN, provider_of


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("claude-opus-4-8", "anthropic"),
        ("Claude-Sonnet-4-5-20250929", "anthropic"),
        ("anthropic/claude-opus-4-8", "anthropic"),
        ("claude-sonnet-4-5@20250929", "gcp.vertex_ai"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "aws.bedrock"),
        ("anthropic.claude-3-haiku-20240307-v1:0", "aws.bedrock"),
        ("global.anthropic.claude-opus-4-8", "aws.bedrock"),
        ("eu.amazon.nova-pro-v1:0", "aws.bedrock"),
        ("openrouter/anthropic/claude-opus-4-8", "openrouter"),
        ("gpt-5.2-codex", "openai"),
        ("o3", "openai"),
        ("o4-mini", "openai"),
        ("gemini-3-pro", "gcp.gemini"),
        ("kimi-for-coding", "moonshot_ai"),
        ("moonshotai/kimi-k2", "moonshot_ai"),
        ("grok-code-fast-1", "x_ai"),
        ("deepseek-chat", "deepseek"),
        ("devstral-medium", "mistral_ai"),
        ("qwen3-coder", "alibaba_cloud"),
        ("glm-4.7", "z_ai"),
        ("MiniMax-M2", "minimax"),
    ],
)
def test_a_known_family_has_its_provider(model: str, provider: str) -> None:
    assert provider_of(model) == provider


@pytest.mark.parametrize("model", ["my-own-model", "", "o5x", "llama-4", "notclaude"])
def test_a_name_no_rule_knows_has_no_provider(model: str) -> None:
    assert provider_of(model) == UNKNOWN
