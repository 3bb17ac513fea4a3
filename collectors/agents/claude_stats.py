"""Claude Code's own statistics: an estimate for days whose transcripts are gone.

`stats-cache.json` has one number per day and model, input and output together without cache. It
fills only days on which the ledger has no record of Claude Code, is marked estimated and has no
price. Lifetime sums in the same file belong to no day and are not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from collectors.agents.claude_code import ClaudeCodeOptions, billing_of, claude_config_dirs
from collectors.agents.jsonl import count
from collectors.agents.models import provider_of
from collectors.agents.tail import printable
from collectors.base import (
    BaseCollector,
    Batch,
    Billing,
    Merge,
    Quality,
    Refusal,
    TokenUsagePoint,
    Width,
)
from collectors.errors import FormatError, SourceUnavailableError

STATS_FILE = "stats-cache.json"


class _Day(msgspec.Struct):
    date: object = None
    tokensByModel: object = None  # noqa: N815 - as written


class _Stats(msgspec.Struct):
    dailyModelTokens: list[_Day] = []  # noqa: N815 - as written; msgspec copies it


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

    async def read(self, cursor: Mapping[str, Any]) -> AsyncIterator[Batch]:
        del cursor
        yield await asyncio.to_thread(self._read_all)

    def _read_all(self) -> Batch:
        days: dict[tuple[date, str], int] = {}
        refusals: list[Refusal] = []
        for path in self.files():
            for index, day in enumerate(self._read(path)):
                try:
                    found = _tokens(day)
                except FormatError as error:
                    where = printable(str(path))
                    refusals.append(Refusal(reason=error.reason, location=where, offset=index))
                    continue
                for key, tokens in found.items():
                    # Two folders may hold copies of one file: the larger number, not the sum.
                    days[key] = max(days.get(key, 0), tokens)
        points = [self._point(*key, tokens) for key, tokens in sorted(days.items()) if tokens]
        return Batch(points=[*points], refusals=refusals, skipped=len(refusals))

    def _point(self, day: date, model: str, tokens: int) -> TokenUsagePoint:
        return TokenUsagePoint(
            provider=provider_of(model),
            model=model,
            timestamp=datetime.combine(day, time(), self.context.zone),
            key=f"stats\0{day.isoformat()}\0{model}",
            unsplit_tokens=tokens,
            requests=0,
            width=Width.DAY,
            quality=Quality.ESTIMATED,
        )

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


def _tokens(day: _Day) -> dict[tuple[date, str], int]:
    """Tokens by day and model; a day is understood as a whole or not at all.

    Raises:
        FormatError: the date is none, or a number is not a count.
    """
    if not isinstance(day.date, str) or not isinstance(day.tokensByModel, dict):
        raise FormatError("day of another shape")
    try:
        when = date.fromisoformat(day.date)
    except ValueError:
        raise FormatError("day is not a date") from None
    return {
        (when, model): count(tokens, "tokensByModel") for model, tokens in day.tokensByModel.items()
    }
