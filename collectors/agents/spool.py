"""What quick commands left for the process that writes: small files, taken in exactly once.

A command that must not wait (a status line) writes its points into the spool folder by atomic
rename and ends. The name of a file that was stored is kept in the cursor until the file is gone.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from collectors.base import BaseCollector, Batch, LimitPoint, Options, Refusal

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
        os.write(fd, msgspec.json.encode(limits))
    finally:
        os.close(fd)
    part.rename(folder / f"{name}{SUFFIX}")


class SpoolCollector(BaseCollector[Options]):
    """Limits that `tokendash statusline` was told by the agents themselves."""

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

    def looked_for(self) -> list[str]:
        return [] if self.context.spool is None else [str(self.context.spool)]

    async def read(self, cursor: Mapping[str, Any]) -> AsyncIterator[Batch]:
        for path in self._files():
            if path.name not in cursor:
                yield self._take(path)
            # Stored by now: a crash before the next line leaves the name to recognise it by.
            path.unlink(missing_ok=True)
            yield Batch(cursor={path.name: None})

    @staticmethod
    def _take(path: Path) -> Batch:
        try:
            if path.stat().st_size > LARGEST:
                raise ValueError(path.name)
            return Batch(points=list(_decode(path.read_bytes())), cursor={path.name: True})
        except (OSError, ValueError, msgspec.MsgspecError):
            refusal = Refusal(reason="spool file unreadable", location=path.name)
            return Batch(refusals=[refusal], skipped=1, cursor={path.name: True})
