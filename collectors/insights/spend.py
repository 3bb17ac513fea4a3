"""Spend at a glance: today, yesterday, week, month and their averages, per scope and part.

A part is what one host or one account adds; parts are separate series that add up. Only metered
money counts here: list prices of subscriptions and of unknown plans are not spending.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import NamedTuple

import msgspec

from collectors.clock import BUCKET_SECONDS, Calendar
from collectors.ledger.reports import NANO, sums_between

ALL = "all"


class Part(NamedTuple):
    """Whose spend it is; exactly one of host and account is set."""

    scope: str  # a provider, or `all`
    host: str
    account: str


class Spend(msgspec.Struct):
    """Metered money in integer nano-dollars; days, weeks (Monday) and months are local."""

    today: int = 0
    yesterday: int = 0
    yesterday_so_far: int = 0
    week: int = 0
    month: int = 0
    last_month: int = 0
    last_7_days: int = 0
    last_30_days: int = 0

    def fields(self) -> dict[str, float]:
        """The fields of `spend_status`, in dollars; averages are over whole days before today."""
        return {
            "today_usd": self.today / NANO,
            "yesterday_usd": self.yesterday / NANO,
            "yesterday_so_far_usd": self.yesterday_so_far / NANO,
            "week_usd": self.week / NANO,
            "month_usd": self.month / NANO,
            "last_month_usd": self.last_month / NANO,
            "avg7_usd_per_day": self.last_7_days / NANO / 7,
            "avg30_usd_per_day": self.last_30_days / NANO / 30,
        }


def windows(now: datetime, calendar: Calendar) -> Mapping[str, tuple[int, int]]:
    """Start and end, epoch seconds, of every window `Spend` sums."""
    moment = int(now.timestamp())
    today = calendar.day_of(moment)
    start = calendar.day_start
    yesterday = today - timedelta(days=1)
    month = today.replace(day=1)
    last_month = (month - timedelta(days=1)).replace(day=1)
    end = start(today + timedelta(days=1))
    return {
        "today": (start(today), end),
        "yesterday": (start(yesterday), start(today)),
        "yesterday_so_far": (start(yesterday), _same_time(now, yesterday, calendar)),
        "week": (start(calendar.period_start(today, "weekly")), end),
        "month": (start(month), end),
        "last_month": (start(last_month), start(month)),
        "last_7_days": (start(today - timedelta(days=7)), start(today)),
        "last_30_days": (start(today - timedelta(days=30)), start(today)),
    }


def _same_time(now: datetime, day: date, calendar: Calendar) -> int:
    """The end of the bucket that holds this time of day on another day."""
    local = now.astimezone(calendar.zone)
    there = datetime.combine(day, local.time(), calendar.zone)
    return int(there.timestamp()) // BUCKET_SECONDS * BUCKET_SECONDS + BUCKET_SECONDS


def spend_status(
    db: sqlite3.Connection, now: datetime, calendar: Calendar, always: Iterable[Part] = ()
) -> dict[Part, Spend]:
    """Spend of every part that had any in the windows; parts in `always` are there as zeros."""
    found: dict[Part, Spend] = {part: Spend() for part in always}
    for name, (start, end) in windows(now, calendar).items():
        for (provider, host, account), usage in sums_between(db, start, end).items():
            for scope in (provider, ALL):
                spend = found.setdefault(Part(scope, host, account), Spend())
                setattr(spend, name, getattr(spend, name) + usage.cost_nano)
    return found
