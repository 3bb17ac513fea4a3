"""First backfill in two lean processes: they read and parse, the parent alone writes.

A worker gets its collector and files on standard input and answers with frames: four bytes of
length, then a batch in MessagePack. It ends when either pipe closes, so a killed parent leaves
nothing behind.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from collectors.errors import SourceUnavailableError
from collectors.points import Batch, Refusal, TokenUsagePoint

if TYPE_CHECKING:
    from collectors.agents.jsonl import JsonlCollector, Work
    from collectors.agents.tail import LogFile

WORKERS = 2
_LENGTH = 4


class _Job(msgspec.Struct, array_like=True):
    """What a worker is asked to read."""

    collector: str  # module:Class
    options: dict[str, Any]
    home: str
    config_home: str
    now: float
    files: list[tuple[str, int, int, int, str, list[int] | None]]


class _UsageBatch(msgspec.Struct, array_like=True):
    """A batch of a log reader, which has token usage only."""

    points: list[TokenUsagePoint]
    cursor: dict[str, Any]
    refusals: list[Refusal]
    skipped: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_UsageBatch)


class ScanPool:
    """Workers that share the files of one collector; their batches arrive as they come."""

    def __init__(self, collector: JsonlCollector[Any]) -> None:
        self._collector = collector
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> ScanPool:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def scan(self, work: Sequence[Work]) -> AsyncIterator[Batch]:
        """Batches of all workers, as they come.

        Raises:
            SourceUnavailableError: a worker ended before it was done; what it delivered is stored.
        """
        queue: asyncio.Queue[Batch | None | BaseException] = asyncio.Queue(maxsize=2)
        parts = share(work, WORKERS)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._follow(part, queue)) for part in parts]
            running = len(tasks)
            try:
                while running:
                    item = await queue.get()
                    if item is None:
                        running -= 1
                    elif isinstance(item, BaseException):
                        raise item
                    else:
                        yield item
            finally:
                for task in tasks:
                    task.cancel()

    async def _follow(
        self, part: Sequence[Work], queue: asyncio.Queue[Batch | None | BaseException]
    ) -> None:
        collector = self._collector
        kind = type(collector)
        job = _Job(
            f"{kind.__module__}:{kind.__qualname__}",
            collector.options.model_dump(mode="json"),
            str(collector.context.home),
            str(collector.context.config_home or ""),
            collector.context.now().timestamp(),
            [(*log, list(position) if position else None) for log, position in part],
        )
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "collectors.agents.scan",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._processes.append(process)
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes were asked for
        body = _ENCODER.encode(job)
        process.stdin.write(len(body).to_bytes(_LENGTH, "big") + body)
        await process.stdin.drain()
        try:
            while size := int.from_bytes(await process.stdout.readexactly(_LENGTH), "big"):
                frame = await process.stdout.readexactly(size)
                found = await asyncio.to_thread(_DECODER.decode, frame)
                await queue.put(
                    Batch(
                        points=list(found.points),
                        cursor=found.cursor,
                        refusals=found.refusals,
                        skipped=found.skipped,
                        is_checked=True,
                    )
                )
            await queue.put(None)
        except asyncio.IncompleteReadError:
            code = await process.wait()
            await queue.put(
                SourceUnavailableError(
                    f"the log reader of {collector.name} ended early (exit code {code})",
                    "it continues where it stopped at the next interval",
                )
            )


def share(work: Sequence[Work], workers: int) -> list[list[Work]]:
    """Files dealt out so that each worker has about as many bytes, newest first for each."""
    parts: list[list[Work]] = [[] for _ in range(workers)]
    load = [0] * workers
    for item in sorted(work, key=lambda item: item[0].size, reverse=True):
        lightest = load.index(min(load))
        parts[lightest].append(item)
        load[lightest] += item[0].size
    for part in parts:
        part.sort(key=lambda item: item[0].mtime_ns, reverse=True)
    return [part for part in parts if part]


def main() -> None:
    """Read the job from standard input, write batches to standard output."""
    import gc  # noqa: PLC0415 - a worker's start is the user's wait
    from datetime import UTC, datetime  # noqa: PLC0415

    from collectors.agents.tail import LogFile  # noqa: PLC0415
    from collectors.base import Context  # noqa: PLC0415

    gc.disable()
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    job = msgspec.msgpack.decode(
        stdin.read(int.from_bytes(stdin.read(_LENGTH), "big")), type=_Job
    )
    # The parent never writes again: what ends this read is its death.
    threading.Thread(target=lambda: (stdin.read(), os._exit(0)), daemon=True).start()
    module, _, name = job.collector.partition(":")
    kind = getattr(importlib.import_module(module), name)
    now = datetime.fromtimestamp(job.now, UTC)
    collector = kind(
        kind.options_type.model_validate(job.options),
        Context(
            home=Path(job.home),
            config_home=Path(job.config_home) if job.config_home else None,
            now=lambda: now,
        ),
    )
    files: list[tuple[LogFile, list[int] | None]] = [
        (LogFile(*log), position) for *log, position in job.files
    ]
    for batch in collector.scan(files):
        body = _ENCODER.encode(
            _UsageBatch(batch.points, batch.cursor, batch.refusals, batch.skipped)
        )
        stdout.write(len(body).to_bytes(_LENGTH, "big"))
        stdout.write(body)
        stdout.flush()
    stdout.write(b"\0" * _LENGTH)
    stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
