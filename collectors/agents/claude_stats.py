"""Claude Code's own statistics: an estimate for days whose transcripts are gone.

`stats-cache.json` has one number per day and model, input and output together without cache. It
fills only days on which the ledger has no record of Claude Code, is marked estimated and has no
price. Lifetime sums in the same file belong to no day and are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import ClassVar
from zoneinfo import ZoneInfo

import msgspec

from collectors.agents.claude_code import ClaudeCodeOptions, billing_of, claude_config_dirs
from collectors.agents.jsonl import count
from collectors.agents.models import provider_of
from collectors.base import BaseCollector, Billing, Merge, Quality, TokenUsagePoint, Width
from collectors.errors import FormatError, SourceUnavailableError

STATS_FILE = "stats-cache.json"


class _Day(msgspec.Struct):
    date: str = ""
    tokensByModel: dict[str, object] = {}  # noqa: N815, RUF012 - as written; msgspec copies it


class _Stats(msgspec.Struct):
    dailyModelTokens: list[_Day] = []  # noqa: N815, RUF012 - as written; msgspec copies it


class ClaudeStatsCollector(BaseCollector[ClaudeCodeOptions]):
    """Claude Code's daily statistics, for days without transcripts."""

    name: ClassVar[str] = "claude-stats"
    options_type = ClaudeCodeOptions
    merge = Merge.FILL
    is_local = False

    def counts_as(self) -> str:
        return "claude-code"

    def billing_now(self) -> Billing:
        return billing_of(self.options.plan)

    def files(self) -> list[Path]:
        """Where the file may be."""
        folders = claude_config_dirs(self.options.config_dir, self.context)
        return [
            (folder.parent if folder.name == "projects" else folder) / STATS_FILE
            for folder in folders
        ]

    def is_configured(self) -> bool:
        return any(path.is_file() for path in self.files())

    def looked_for(self) -> Sequence[str]:
        return [str(path) for path in self.files()]

    async def collect(self) -> list[TokenUsagePoint]:
        days: dict[tuple[str, str], int] = {}
        for path in self.files():
            for day in self._read(path):
                for model, tokens in day.tokensByModel.items():
                    key = (day.date, model)
                    # Two folders may hold copies of one file: the larger number, not the sum.
                    days[key] = max(days.get(key, 0), count(tokens, "tokensByModel"))
        zone = self.context.zone
        return [
            TokenUsagePoint(
                provider=provider_of(model),
                model=model,
                timestamp=_midnight(day, zone),
                key=f"stats\0{day}\0{model}",
                unsplit_tokens=tokens,
                requests=0,
                width=Width.DAY,
                quality=Quality.ESTIMATED,
            )
            for (day, model), tokens in sorted(days.items())
            if tokens
        ]

    @staticmethod
    def _read(path: Path) -> list[_Day]:
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SourceUnavailableError(
                f"{path} cannot be read: {error.strerror}", "let this user read the file"
            ) from None
        try:
            return msgspec.json.decode(text, type=_Stats).dailyModelTokens
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise SourceUnavailableError(
                f"{path} is not what this version understands",
                "it may be half written; it is read again at the next interval",
            ) from None


def _midnight(day: str, zone: ZoneInfo) -> datetime:
    try:
        return datetime.combine(date.fromisoformat(day), time(), zone)
    except ValueError:
        raise FormatError("dailyModelTokens has a day that is not a date") from None
