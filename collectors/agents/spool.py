"""What quick commands left for the process that writes: small files, taken in exactly once.

A command that must not wait (a status line) writes its points into the spool folder by atomic
rename and ends. The name of a file that was stored is kept in the cursor until the file is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from collectors.base import BaseCollector, Batch, LimitPoint, Options, Refusal
from collectors.clock import is_plausible

SUFFIX = ".limits.json"
LARGEST = 64 << 10

_decode = msgspec.json.Decoder(list[LimitPoint]).decode


def drop_limits(folder: Path, limits: list[LimitPoint]) -> None:
    """Leave limits for the next writer; the file is there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
    part = folder / f".{name}.part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, for its mode
            file.write(msgspec.json.encode(limits))
        part.rename(folder / f"{name}{SUFFIX}")
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class SpoolCollector(BaseCollector[Options]):
    """What quick commands left for the process that writes."""

    name: ClassVar[str] = "spool"
    is_local = True

    def _files(self) -> list[Path]:
        folder = self.context.spool
        if folder is None:
            return []
        try:
            return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))
        except OSError:
            return []

    def is_configured(self) -> bool:
        return bool(self._files())

    async def read(self, cursor: Mapping[str, Any]) -> AsyncIterator[Batch]:
        files = await asyncio.to_thread(self._files)
        gone = cursor.keys() - {path.name for path in files}
        if gone:  # a crash between removing a file and forgetting its name
            yield Batch(cursor=dict.fromkeys(gone))
        for path in files:
            if path.name not in cursor:
                yield await asyncio.to_thread(_take, path)
            # Stored by now: a crash before the next line leaves the name to recognise it by. So
            # does a file that cannot be removed; those behind it still get their turn.
            with contextlib.suppress(OSError):
                await asyncio.to_thread(path.unlink, missing_ok=True)
                yield Batch(cursor={path.name: None})


def _take(path: Path) -> Batch:
    try:
        points = _decode(_read(path))
    except (OSError, ValueError, msgspec.MsgspecError):
        return _refused(path, "spool file unreadable", 1)
    good = [point for point in points if _is_usable(point)]
    batch = _refused(path, "limit out of range", len(points) - len(good))
    batch.points = [*good]
    return batch


def _refused(path: Path, reason: str, skipped: int) -> Batch:
    refusals = [Refusal(reason=reason, location=path.name)] if skipped else []
    return Batch(refusals=refusals, skipped=skipped, cursor={path.name: True})


def _read(path: Path) -> bytes:
    """The whole of a small regular file.

    Raises:
        OSError, ValueError: it is something else, or too large.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor, for its flags
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            raise ValueError(path.name)
        return file.read(LARGEST)


def _is_usable(point: LimitPoint) -> bool:
    """Whether a limit can be stored and shown; agents have been seen to send anything."""
    times = [point.timestamp] if point.resets_at is None else [point.timestamp, point.resets_at]
    return (
        bool(point.provider and point.window)
        and 0 <= point.used_ratio < 1_000
        and all(moment.tzinfo is not None and is_plausible(moment) for moment in times)
    )
