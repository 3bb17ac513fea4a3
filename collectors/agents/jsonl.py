"""The base of collectors that read JSONL logs: they say where, which lines, and what one means."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from collectors.agents.scan import ScanPool, unread_bytes
from collectors.agents.tail import (
    TOO_LONG,
    LineReader,
    LogFile,
    Progress,
    has_changed,
)
from collectors.agents.tree import Listing, LogTree
from collectors.base import (
    BaseCollector,
    Batch,
    Context,
    Merge,
    Options,
    Point,
    Refusal,
    TokenUsagePoint,
)
from collectors.clock import EARLIEST_MS
from collectors.errors import FormatError, SourceUnavailableError
from collectors.merging import absorb

O = TypeVar("O", bound=Options)  # noqa: E741 - the conventional letter for an options type

POOL_BYTES = 96 << 20  # from here on two more processes earn their start
UNREAD_LINES = 50
FORMAT_CHANGED = "format changed"

Work = tuple[LogFile, Sequence[int] | None]


class JsonlCollector(BaseCollector[O]):
    """Reads logs under `roots`, hands lines that hold a marker to `parse`, and resumes exactly."""

    merge = Merge.LARGEST
    is_local = True
    markers: ClassVar[tuple[bytes, ...]]
    points_per_batch: ClassVar[int] = 5_000
    files_per_batch: ClassVar[int] = 400
    witness: ClassVar[bytes] = b""  # in every line that should hold a marker, whatever its name

    unread_lines = 0  # lines that told nothing since the last one that told of a call

    def __init__(self, options: O | None = None, context: Context | None = None) -> None:
        super().__init__(options, context)
        self._tree = LogTree(self.is_log)
        # Why a line that was counted may not have said all: `parse` adds, one refusal per file.
        self.noticed: set[str] = set()

    def roots(self) -> Iterable[Path]:
        """Folders to look under; missing ones are normal."""
        raise NotImplementedError

    def is_log(self, name: str) -> bool:
        """Whether a file of this name is a log."""
        return name.endswith(".jsonl")

    def parse(self, line: bytes, log: LogFile) -> Sequence[TokenUsagePoint]:
        """The calls one line tells of; none for most lines.

        Raises:
            FormatError: the line cannot be understood; it is skipped and counted.
        """
        raise NotImplementedError

    def is_configured(self) -> bool:
        return any(root.is_dir() for root in self.roots())

    def looked_for(self) -> Sequence[str]:
        return [str(root) for root in self.roots()]

    def listing(self) -> Listing:
        """All logs there are now."""
        return self._tree.look(str(root) for root in self.roots())

    def changed(self, listing: Listing, cursor: Mapping[str, Any]) -> list[Work]:
        """Files to read, newest first, each with the position it was left at."""
        work = [
            (log, position)
            for log in listing.files
            if has_changed(log, position := cursor.get(log.name), self.parser_version)
        ]
        work.sort(key=lambda item: item[0].mtime_ns, reverse=True)
        return work

    async def read(self, cursor: Mapping[str, Any]) -> AsyncIterator[Batch]:
        listing = await asyncio.to_thread(self.listing)
        work = self.changed(listing, cursor)
        self.expected = len(work)
        if listing.unreadable and not listing.files:
            raise SourceUnavailableError(
                f"{listing.unreadable[0]} cannot be read", "let this user read the folder"
            )
        if listing.unreadable:
            refusals = [Refusal(reason="folder unreadable", location=x) for x in listing.unreadable]
            yield Batch(refusals=refusals)
        if sum(unread_bytes(*item) for item in work) >= POOL_BYTES:
            async with ScanPool(self) as pool:
                async for batch in pool.scan(work):
                    yield batch
            return
        batches = self.scan(work)
        while (found := await asyncio.to_thread(_next, batches)) is not None:
            yield found

    def scan(self, work: Iterable[Work]) -> Iterator[Batch]:
        """Read files one after another; batches of merged points with the positions they end at."""
        gathering = _Gathering(self)
        for log, position in work:
            yield from gathering.read(log, position)
        yield from gathering.finish()


class _Gathering:
    """Points of one or more files on their way into a batch."""

    def __init__(self, collector: JsonlCollector[Any]) -> None:
        self._collector = collector
        self._reader = LineReader(collector.markers)
        self._points: dict[tuple[str, str], TokenUsagePoint] = {}
        self._cursor: dict[str, Any] = {}
        self._refusals: list[Refusal] = []

    def read(self, log: LogFile, position: Sequence[int] | None) -> Iterator[Batch]:
        collector = self._collector
        points = self._points
        progress = Progress(log, collector.parser_version)
        parse = collector.parse
        lines = understood = 0
        said: set[str] = set()
        collector.noticed.clear()
        try:
            for some in self._reader.read(log, position, collector.parser_version, progress):
                lines += len(some)
                for line, offset in some:
                    try:
                        found = parse(line, log)
                    except FormatError as error:
                        self._refuse(error.reason, log, offset, len(line))
                        continue
                    if collector.noticed:
                        for reason in sorted(collector.noticed - said):
                            self._refuse(reason, log, offset, len(line))
                        said |= collector.noticed
                        collector.noticed.clear()
                    for point in found:
                        understood = understood or point.total_tokens
                        key = (point.key, point.variant)
                        seen = points.get(key)
                        if seen is None:
                            points[key] = point
                        else:
                            absorb(seen, point)
                if len(points) >= collector.points_per_batch:
                    self._cursor[log.name] = progress.position(is_final=False)
                    self._refuse_too_long(progress)
                    yield self._take()
                    points = self._points
        except FileNotFoundError:
            return  # deleted since it was listed; what was counted stays counted
        except OSError as error:
            reason = f"file unreadable: {error.strerror or 'not a regular file'}"
            self._refuse(reason, log, 0, log.size)
            return
        self._refuse_too_long(progress)
        self._cursor[log.name] = progress.position()
        if understood:
            collector.unread_lines = 0
        elif lines or collector.witness:
            collector.unread_lines += lines or self._reader.count(collector.witness)
        if len(self._cursor) >= collector.files_per_batch:
            yield self._take()

    def finish(self) -> Iterator[Batch]:
        if self._collector.unread_lines >= UNREAD_LINES:
            self._collector.unread_lines = 0
            self._refusals.append(Refusal(reason=FORMAT_CHANGED))
        if self._points or self._cursor or self._refusals:
            yield self._take()

    def _refuse(self, reason: str, log: LogFile, offset: int, length: int) -> None:
        self._refusals.append(
            Refusal(reason=reason, location=log.name, offset=offset, length=length)
        )

    def _refuse_too_long(self, progress: Progress) -> None:
        for offset, length in progress.too_long:
            self._refuse(TOO_LONG, progress.log, offset, length)
        progress.too_long.clear()

    def _take(self) -> Batch:
        name = self._collector.counts_as()
        for point in self._points.values():
            point.identify(name)
        points: list[Point] = [*self._points.values()]
        batch = Batch(
            points=points,
            cursor=self._cursor,
            refusals=self._refusals,
            skipped=len(self._refusals),
            is_checked=True,
        )
        self._points, self._cursor, self._refusals = {}, {}, []
        return batch


def _next(batches: Iterator[Batch]) -> Batch | None:
    return next(batches, None)


# -- values in log lines --------------------------------------------------------------------------

MOST = 1 << 53


def lenient(line: bytes) -> dict[str, Any]:
    """A line the strict decoder refused, read as forgivingly as is safe.

    Raises:
        FormatError: it is not a JSON object.
    """
    text = line.decode("utf-8", errors="replace").lstrip("\ufeff").rstrip("\r")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError("not JSON") from None
    if not isinstance(found, dict):
        raise FormatError("not a JSON object")
    return found


def count(value: object, name: str) -> int:
    """A token count: absent and null are 0, a whole float or numeric string is its number.

    Raises:
        FormatError: anything else; an unreadable count is never 0.
    """
    if value is None:
        return 0
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer() and value < MOST:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
        raise FormatError(f"{name} is not a count")
    return value


def timestamp_ms(text: str, latest_ms: int) -> int:
    """Milliseconds of an RFC 3339 time; without a zone it is UTC.

    Raises:
        FormatError: not a time, or outside 2020 to tomorrow.
    """
    if len(text) == 24 and text[16] == ":" and text[19] == "." and text[23] == "Z":
        # The usual form, `2026-09-01T23:59:58.100Z`: a minute is worked out once.
        minute = _minute_ms(text[:16])
        digits = text[17:19] + text[20:23]
        if minute and digits.isdecimal() and digits < "60" and digits.isascii():
            found = minute + int(digits)
            if EARLIEST_MS <= found <= latest_ms:
                return found
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise FormatError("timestamp missing or unreadable") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        found = int(moment.timestamp() * 1000 + 0.5)
    except (OverflowError, ValueError):
        found = 0
    if not EARLIEST_MS <= found <= latest_ms:
        raise FormatError("timestamp outside 2020 to tomorrow")
    return found


@lru_cache(maxsize=4096)
def _minute_ms(text: str) -> int:
    """Milliseconds of `YYYY-MM-DDTHH:MM` in UTC; 0 when it is not that."""
    try:
        return int(datetime.fromisoformat(text + "+00:00").timestamp() * 1000)
    except ValueError:
        return 0
