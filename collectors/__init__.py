"""tokendash: knows exactly, at any moment, what LLM tokens cost you.

Collector classes can be imported from here: `from collectors import ClaudeCodeCollector`.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "BaseCollector": "collectors.base",
    "TokenUsagePoint": "collectors.base",
    "BalancePoint": "collectors.base",
    "LimitPoint": "collectors.base",
    "Batch": "collectors.base",
    "ClaudeCodeCollector": "collectors.agents.claude_code",
    "ClaudeStatsCollector": "collectors.agents.claude_stats",
}

__all__ = [*_LAZY, "__version__"]  # noqa: PLE0604 - names of strings, resolved when asked for


def __getattr__(name: str) -> Any:
    # Lazy: `status` must not pay for what it does not use.
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(module), name)
