"""The warning before an agent deletes transcripts that were never collected."""

from __future__ import annotations

import json
from contextlib import closing

from collectors.agents.claude_code import ClaudeCodeCollector
from collectors.agents.tail import Position
from collectors.cli.light import Light
from collectors.composition import Program
from collectors.ledger import glance

DAYS_BEFORE = 3
_DAY_NS = 86_400 * 10**9


def warn_of_cleanup(light: Light) -> str:
    """What will be lost soon, in words; empty when nothing is in danger."""
    program = Program(light.environ, clock=light.clock)
    for collector in program.registry.collectors:
        if isinstance(collector, ClaudeCodeCollector):
            return _warning(light, collector)
    return ""


def _warning(light: Light, collector: ClaudeCodeCollector) -> str:
    days = collector.cleanup_days()
    limit = max(0, days - DAYS_BEFORE)
    oldest_safe = int(light.now.timestamp() * 1e9) - limit * _DAY_NS
    cursor = {}
    if light.ledger.exists():
        with closing(light.open()) as db:
            stored = glance.cursor_of(db, collector.name)
        cursor = {name: json.loads(value) for name, value in stored.items()}
    lost = [
        log
        for log, position in collector.changed(collector.listing(), cursor)
        if log.mtime_ns < oldest_safe
        and (position is None or Position(*position).offset < log.size)
    ]
    if not lost:
        return ""
    size = sum(log.size for log in lost)
    one = len(lost) == 1
    return (
        f"Claude Code deletes transcripts after {days} days: {len(lost):,}"
        f" {'file' if one else 'files'} ({size / 1e6:,.1f} MB) older than {limit} days"
        f" {'was' if one else 'were'} never collected. Run `tokendash --once` now."
    )
