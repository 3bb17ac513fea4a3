"""One colour, one meaning: the only place where a dashboard colour is written down.

The fixed colours were searched for: seen normally or with any of the three common colour
blindnesses, two providers keep a CIE76 distance of 26, the five token classes 37, the one-hour
writes 28 from those; each has a contrast of 3:1 on Grafana's dark panel. A new colour is found by
the same search with the old ones held. Red, orange and green mean a state and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

PROVIDERS: Final[Mapping[str, str]] = {
    "anthropic": "#EE9C61",
    "openai": "#217B4F",
    "gcp.gemini": "#87BEF6",
    "x_ai": "#CCD1D5",
    "moonshot_ai": "#9360D0",
    "deepseek": "#514DF2",
    "mistral_ai": "#E6CE17",
    "openrouter": "#D7499D",
    "aws.bedrock": "#986112",
}

INPUT: Final = "#2D66D8"
CACHE_WRITE: Final = "#775C86"
CACHE_WRITE_1H: Final = "#B8A0F8"
CACHE_READ: Final = "#92DEE7"
OUTPUT: Final = "#E68D59"

GREY: Final = "#8E8E8E"  # comparison, forecast, average, or not money
TEXT: Final = "text"  # Grafana's own text colour, light or dark
EMPHASIS: Final = "blue"  # the one thing a panel is about

GOOD: Final = "green"
WATCH: Final = "orange"
ACT: Final = "red"


def provider_pattern(provider: str) -> str:
    """Matches a series named by its provider alone or followed by more: `anthropic org-1`."""
    return f"/^{re.escape(provider)}( |$)/"
