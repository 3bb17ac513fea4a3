"""A month of made-up use whose sums can be worked out by hand, with names that are hard to quote.

Every series has one point an hour, all alike, so a range of N days holds 24 * N of each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DAYS: Final = 31
ZONE: Final = "Asia/Kathmandu"  # 5:45 from UTC: a forgotten zone shows in every daily number
OFFSET_S: Final = 7  # of the writer

# Of one point; every class is there, so nothing can be swapped unseen.
INPUT, READ, WRITE, WRITE_1H, OUTPUT, UNSPLIT = 100, 700, 200, 50, 40, 0
TOTAL: Final = INPUT + READ + WRITE + OUTPUT + UNSPLIT  # 1,040
REQUESTS: Final = 2
SAVED: Final = 0.0625
PAID, SUBSCRIPTION, UNKNOWN_PLAN = 0.25, 0.5, 0.125


@dataclass(frozen=True)
class Use:
    """One series: who used what, and which kind of money it counts as."""

    provider: str
    source: str
    model: str
    project: str
    host: str = ""
    account: str = ""
    paid: float = 0.0
    subscription: float = 0.0
    unknown_plan: float = 0.0

    @property
    def tags(self) -> str:
        """The tags as line protocol; an empty one is left out."""
        named = {
            "account": self.account,
            "host": self.host,
            "model": self.model,
            "project": self.project,
            "provider": self.provider,
            "source": self.source,
        }
        return ",".join(f"{name}={quoted(value)}" for name, value in named.items() if value)

    def fields(self, times: int = 1) -> str:
        """The fields of this many points together."""
        counts = {
            "input_tokens": INPUT,
            "cache_read_tokens": READ,
            "cache_write_tokens": WRITE,
            "cache_write_1h_tokens": WRITE_1H,
            "output_tokens": OUTPUT,
            "reasoning_tokens": 0,
            "unsplit_tokens": UNSPLIT,
            "total_tokens": TOTAL,
            "unpriced_tokens": 0,
            "requests": REQUESTS,
        }
        money = {
            "cost_usd": self.paid,
            "api_equivalent_usd": self.subscription,
            "plan_unknown_usd": self.unknown_plan,
            "cache_savings_usd": SAVED,
        }
        return ",".join(
            [f"{name}={value * times}i" for name, value in counts.items()]
            + [f"{name}={value * times}" for name, value in money.items()]
        )


METERED: Final = Use(
    "openai", "codex", "gpt-5.1-codex", 'it\'s "quoted"', host="box.local", paid=PAID
)
PLANNED: Final = Use(
    "anthropic", "claude_code", "claude-opus-4-5", "a.b", host="laptop", subscription=SUBSCRIPTION
)
UNPLANNED: Final = Use(
    "anthropic",
    "claude_code",
    "claude/haiku [beta] {x}",
    "web/ui (new)",
    host="laptop",
    unknown_plan=UNKNOWN_PLAN,
)
OF_ACCOUNT: Final = Use(
    "openrouter",
    "openrouter",
    "anthropic/claude-haiku-4.5",
    "none",
    account="org+1 (main)|x^$?*",
    paid=PAID,
)
EVERYBODY: Final = (METERED, PLANNED, UNPLANNED, OF_ACCOUNT)


def quoted(value: str) -> str:
    """A tag value as line protocol."""
    return value.replace(",", r"\,").replace("=", r"\=").replace(" ", r"\ ")


def last_hour(now: float | None = None) -> int:
    """The full hour before now; ranges that end here hold whole hours."""
    return int(now or time.time()) // 3600 * 3600


def use_lines(uses: Sequence[Use], until: int, days: int = DAYS) -> Iterator[str]:
    """An hourly point of each series and their daily sums, for this many days back."""
    zone = ZoneInfo(ZONE)
    for use in uses:
        by_day: dict[datetime, int] = {}
        for hour in range(1, 24 * days + 1):
            bucket = until - 3600 * hour + 300
            yield f"token_usage,{use.tags} {use.fields()} {bucket + OFFSET_S}"
            local = datetime.fromtimestamp(bucket, zone)
            midnight = local.replace(hour=0, minute=0, second=0)
            by_day[midnight] = by_day.get(midnight, 0) + 1
        for midnight, points in by_day.items():
            stamp = int(midnight.timestamp()) + OFFSET_S
            yield f"token_usage_daily,{use.tags} {use.fields(points)} {stamp}"


def hours_of_today(until: int) -> int:
    """How many hourly points the exporter's today holds."""
    zone = ZoneInfo(ZONE)
    today = datetime.now(zone).date()
    stamps = (datetime.fromtimestamp(until - 3600 * hour + 300, zone) for hour in range(1, 30))
    return sum(stamp.date() == today for stamp in stamps)


def heartbeat_lines(
    now: float, silent: timedelta = timedelta(0), host: str = "laptop"
) -> Iterator[str]:
    """Half-minute heartbeats of an exporter that ran for two hours and then fell silent."""
    newest = int(now - silent.total_seconds())
    for back in range(0, 7200, 30):
        yield (
            f"exporter_status,tz={ZONE},version=0.1.0,host={host} heartbeat=1i,pending=3i,"
            f"dead_letters=0i,unpriced_tokens=11i,uptime_s=60i,db_bytes=4096i {newest - back}"
        )


def state_lines(now: float) -> Iterator[str]:
    """What an exporter of this version says about itself: one of its two sources fails."""
    stamp = int(now) - 60
    for collector, ok in (("claude_code", 1), ("codex", 0)):
        yield (
            f"collector_status,collector={collector},host=laptop ok={ok}i,"
            f"consecutive_failures={1 - ok}i,age_s=3i,records=5i,duration_ms=7i {stamp}"
        )
    parts = (("host=laptop", 1.5), ("host=box.local", 2.0), ("account=a", 4.0), ("account=b", 8.0))
    for part, today in parts:
        yield (
            f"spend_status,scope=all,{part} today_usd={today},yesterday_usd=4.0,"
            f"yesterday_so_far_usd=1.0,week_usd=9.0,month_usd=20.0,last_month_usd=50.0,"
            f"avg7_usd_per_day=3.0,avg30_usd_per_day=2.0 {stamp}"
        )
    yield f"spend_status,scope=openai,host=laptop today_usd=100.0 {stamp}"  # part of all


def later_lines(now: float) -> Iterator[str]:
    """What later versions of the exporter add."""
    stamp = int(now) - 60
    yield (
        "spend_status,scope=all,host=laptop projected_today_usd=6.0,projected_month_usd=60.0,"
        f"monthly_budget_usd=80.0 {stamp}"
    )
    yield (
        "account_balance,provider=deepseek,account=main balance_usd=4.0,low_balance_usd=5.0,"
        f"burn_usd_per_day=2.0,runway_days=2.0 {stamp}"
    )
    yield (
        "rate_window,provider=anthropic,account=me,window=5h used_ratio=0.4,"
        f"resets_at_ms={(stamp + 600) * 1000}i {stamp}"
    )
