"""Time as values: the clock everything takes as an argument, and days in the user's zone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from collectors.errors import SettingsError

Clock = Callable[[], datetime]

BUCKET_SECONDS = 300
EARLIEST_MS = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1000)
LATEST_MS = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp() * 1000)


def system_clock() -> datetime:
    """The host's wall clock as aware UTC."""
    return datetime.now(UTC)


def is_plausible(now: datetime) -> bool:
    """Whether a wall clock can be trusted to stamp readings (not 1970, not 2262)."""
    return EARLIEST_MS <= now.timestamp() * 1000 < LATEST_MS


def latest_event_ms(now: datetime) -> int:
    """The latest time a record can have: tomorrow; anything while the clock itself cannot be true.

    Refusing by a clock in 1970 would turn away, for good, everything that is in the logs.
    """
    return int(now.timestamp() * 1000) + 86_400_000 if is_plausible(now) else LATEST_MS


def find_zone(name: str, environ: Mapping[str, str], root: Path = Path("/")) -> ZoneInfo:
    """The zone that cuts days: the setting, else TZ, else the host's, else UTC.

    Raises:
        SettingsError: the name is not an IANA zone.
    """
    name = (name or environ.get("TZ", "")).lstrip(":")
    if not name or name.startswith("/"):  # POSIX lets TZ name a file, such as /etc/localtime
        name = _zone_of(Path(name or "/etc/localtime"), root)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise SettingsError(
            f"TZ is {name!r}, which is not a time zone",
            "set TZ to an IANA name such as Europe/Berlin",
        ) from error


def _zone_of(path: Path, root: Path) -> str:
    try:
        target = str((root / path.relative_to("/")).readlink())
    except OSError:
        target = str(path)  # not a link: perhaps the zone's own file
    if "zoneinfo/" in target:
        return target.rpartition("zoneinfo/")[2]
    if path != Path("/etc/localtime"):
        return str(path)
    try:
        return (root / "etc/timezone").read_text(encoding="ascii").strip() or "UTC"
    except (OSError, UnicodeDecodeError):
        return "UTC"


class Calendar:
    """Days, weeks and months of one zone, as epoch seconds."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self.day_start = lru_cache(maxsize=4096)(self._day_start)
        self._day_of_hour = lru_cache(maxsize=65536)(self._day_of)

    def day_of(self, epoch_seconds: int) -> date:
        """The local date an instant falls on."""
        # Offsets are multiples of a quarter of an hour, so a quarter decides its whole length.
        return self._day_of_hour(epoch_seconds // 900 * 900)

    def _day_of(self, epoch_seconds: int) -> date:
        return datetime.fromtimestamp(epoch_seconds, self.zone).date()

    def _day_start(self, day: date) -> int:
        return int(datetime.combine(day, time(), self.zone).timestamp())

    def day_range(self, day: date) -> tuple[int, int]:
        """Start and end (excluded) of a local day in epoch seconds; 23 to 25 hours apart."""
        return self.day_start(day), self.day_start(day + timedelta(days=1))

    def period_start(self, day: date, period: str) -> date:
        """First day of the day's own day, week (Monday) or month."""
        if period == "weekly":
            return day - timedelta(days=day.weekday())
        if period == "monthly":
            return day.replace(day=1)
        return day
