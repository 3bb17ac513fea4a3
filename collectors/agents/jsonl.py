"""The base of collectors that read JSONL logs: they say where, which lines, and what a line means."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from collectors.agents.scan import ScanPool
from collectors.agents.tail import (
    TOO_LONG,
    LineReader,
    Listing,
    LogFile,
    Progress,
    has_changed,
    list_logs,
)
from collectors.base import BaseCollector, Batch, Merge, Options, Refusal, TokenUsagePoint
from collectors.clock import EARLIEST_MS
from collectors.errors import FormatError, SourceUnavailableError
from collectors.merging import absorb

O = TypeVar("O", bound=Options)  # noqa: E741 - the conventional letter for an options type

POINTS_PER_BATCH = 5_000
FILES_PER_BATCH = 400
POOL_BYTES = 96 << 20  # from here on two more processes earn their start
UNREAD_LINES = 50
FORMAT_CHANGED = "format changed"

Work = tuple[LogFile, Sequence[int] | None]


class JsonlCollector(BaseCollector[O]):
    """Reads logs under `roots`, hands lines that hold a marker to `parse`, and resumes exactly."""

    merge = Merge.LARGEST
    is_local = True
    markers: ClassVar[tuple[bytes, ...]]

    def roots(self) -> Iterable[Path]:
        """Folders to look under; missing ones are normal."""
        raise NotImplementedError

    def is_log(self, name: str) -> bool:
        """Whether a file of this name is a log."""
        return name.endswith(".jsonl")

    def parse(self, line: memoryview, log: LogFile) -> Iterable[TokenUsagePoint]:
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
        return list_logs((str(root) for root in self.roots()), self.is_log)

    def changed(self, listing: Listing, cursor: Mapping[str, Any]) -> list[Work]:
        """Files to read, newest first, each with the position it was left at."""
        work = [
            (log, position)
            for log in listing.files
            if has_changed(log, position := cursor.get(log.path), self.parser_version)
        ]
        work.sort(key=lambda item: item[0].mtime_ns, reverse=True)
        return work

    async def read(self, cursor: Mapping[str, Any]) -> AsyncIterator[Batch]:
        listing = await asyncio.to_thread(self.listing)
        work = self.changed(listing, cursor)
        if listing.unreadable and not listing.files:
            raise SourceUnavailableError(
                f"{listing.unreadable[0]} cannot be read", "let this user read the folder"
            )
        if listing.unreadable:
            refusals = [Refusal(reason="folder unreadable", location=x) for x in listing.unreadable]
            yield Batch(refusals=refusals)
        if sum(log.size for log, _ in work) >= POOL_BYTES:
            async with ScanPool(self) as pool:
                async for batch in pool.scan(work):
                    yield batch
            return
        batches = self.scan(work)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            yield batch

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
        self._lines = self._understood = 0

    def read(self, log: LogFile, position: Sequence[int] | None) -> Iterator[Batch]:
        collector = self._collector
        points = self._points
        progress = Progress(log, collector.parser_version)
        parse = collector.parse
        try:
            for line in self._reader.read(log, position, collector.parser_version, progress):
                self._lines += 1
                try:
                    for point in parse(line.data, log):
                        self._understood += 1
                        key = (point.key, point.variant)
                        seen = points.get(key)
                        if seen is None:
                            points[key] = point
                        else:
                            absorb(seen, point)
                except FormatError as error:
                    self._refuse(error.reason, log.path, line.offset, len(line.data))
                if len(points) >= POINTS_PER_BATCH:
                    self._cursor[log.path] = progress.position(is_final=False)
                    yield self._take()
                    points = self._points
        except FileNotFoundError:
            return  # deleted since it was listed; what was counted stays counted
        except OSError as error:
            reason = f"file unreadable: {error.strerror or 'not a regular file'}"
            self._refuse(reason, log.path, 0, log.size)
            return
        for offset, length in progress.too_long:
            self._refuse(TOO_LONG, log.path, offset, length)
        self._cursor[log.path] = progress.position()
        if len(self._cursor) >= FILES_PER_BATCH:
            yield self._take()

    def finish(self) -> Iterator[Batch]:
        if self._lines >= UNREAD_LINES and not self._understood:
            self._refuse(FORMAT_CHANGED, "", 0, 0)
        if self._points or self._cursor or self._refusals:
            yield self._take()

    def _refuse(self, reason: str, path: str, offset: int, length: int) -> None:
        self._refusals.append(
            Refusal(reason=reason, location=path, offset=offset, length=length)
        )

    def _take(self) -> Batch:
        points = list(self._points.values())
        name = self._collector.counts_as()
        for point in points:
            point.identify(name)
        batch = Batch(
            points=points,
            cursor=self._cursor,
            refusals=self._refusals,
            skipped=len(self._refusals),
            is_checked=True,
        )
        self._points, self._cursor, self._refusals = {}, {}, []
        return batch


# -- values in log lines --------------------------------------------------------------------------

MOST = 1 << 53


def lenient(line: memoryview) -> dict[str, Any]:
    """A line the strict decoder refused, read as forgivingly as is safe.

    Raises:
        FormatError: it is not a JSON object.
    """
    text = bytes(line).decode("utf-8", errors="replace").lstrip("\ufeff").rstrip("\r")
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
    if isinstance(value, str) and re.fullmatch(r"\d{1,16}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
        raise FormatError(f"{name} is not a count")
    return value


def timestamp_ms(text: str, latest_ms: int) -> int:
    """Milliseconds of an RFC 3339 time; without a zone it is UTC.

    Raises:
        FormatError: not a time, or outside 2020 to tomorrow.
    """
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
