"""First backfill in two lean processes: they read and parse, the parent alone writes.

A worker gets its collector and files on standard input and answers with frames: four bytes of
length, then a batch in MessagePack. It ends when either pipe closes, so a killed parent leaves
nothing behind.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import selectors
import subprocess
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
_PACKAGE = str(Path(__file__).resolve().parents[2])


class _Job(msgspec.Struct, array_like=True):
    """What a worker is asked to read; paths are bytes, because names need not be text."""

    collector: str  # module:Class
    options: dict[str, Any]
    home: bytes
    config_home: bytes
    now: float
    files: list[tuple[bytes, int, int, int, bytes, list[int] | None]]


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
        self._workers: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._served: dict[int, int] = {}  # frames by file descriptor: who waited longest is next
        self._reading = threading.Lock()

    async def __aenter__(self) -> ScanPool:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def worker_ids(self) -> list[int]:
        """Process ids of the workers that were started."""
        return [worker.pid for worker in self._workers]

    async def scan(self, work: Sequence[Work]) -> AsyncIterator[Batch]:
        """Batches of all workers, as they come.

        Raises:
            SourceUnavailableError: a worker ended before it was done; what it delivered is stored.
        """
        await asyncio.to_thread(self._start, work)
        while (batch := await asyncio.to_thread(self._next)) is not None:
            yield batch

    def _start(self, work: Sequence[Work]) -> None:
        path = os.pathsep.join(filter(None, (_PACKAGE, os.environ.get("PYTHONPATH", ""))))
        jobs = [_ENCODER.encode(self._job(part)) for part in share(work, WORKERS)]
        with self._reading:
            for _ in jobs:
                # -P: a folder named collectors where the user happens to be is not ours.
                worker = subprocess.Popen(
                    [sys.executable, "-P", "-m", "collectors.agents.scan"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                    process_group=0,  # Ctrl-C is for the parent, who ends them
                    env={**os.environ, "PYTHONPATH": path},
                )
                self._workers.append(worker)
                assert worker.stdout is not None  # a pipe was asked for
                self._selector.register(worker.stdout, selectors.EVENT_READ, worker)
                self._served[worker.stdout.fileno()] = 0
            for worker, job in zip(self._workers, jobs, strict=True):
                self._send(worker, job)

    def _job(self, part: Sequence[Work]) -> _Job:
        collector = self._collector
        kind, context = type(collector), collector.context
        return _Job(
            f"{kind.__module__}:{kind.__qualname__}",
            collector.options.model_dump(mode="json"),
            os.fsencode(context.home),
            os.fsencode(context.config_home or ""),
            context.now().timestamp(),
            [
                (
                    os.fsencode(log.path),
                    log.size,
                    log.mtime_ns,
                    log.inode,
                    os.fsencode(log.root),
                    list(position) if position else None,
                )
                for log, position in part
            ],
        )

    def _send(self, worker: subprocess.Popen[bytes], job: bytes) -> None:
        assert worker.stdin is not None  # a pipe was asked for
        left = memoryview(len(job).to_bytes(_LENGTH, "big") + job)
        try:
            while left:
                left = left[os.write(worker.stdin.fileno(), left) :]
        except OSError:
            raise self._ended(worker) from None

    def _next(self) -> Batch | None:
        """The next batch of any worker; None when all are done."""
        with self._reading:
            while self._selector.get_map():
                ready = [key for key, _ in self._selector.select()]
                key = min(ready, key=lambda key: self._served[key.fd])
                self._served[key.fd] += 1
                frame = self._frame(key.data, key.fd)
                if frame:
                    found = _DECODER.decode(frame)
                    return Batch(
                        points=list(found.points),
                        cursor=found.cursor,
                        refusals=found.refusals,
                        skipped=found.skipped,
                        is_checked=True,
                    )
                self._selector.unregister(key.fileobj)
        return None

    def _frame(self, worker: subprocess.Popen[bytes], fd: int) -> bytes:
        size = int.from_bytes(self._exactly(worker, fd, _LENGTH), "big")
        return self._exactly(worker, fd, size)

    def _exactly(self, worker: subprocess.Popen[bytes], fd: int, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(fd, size)
            if not part:
                raise self._ended(worker)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _ended(self, worker: subprocess.Popen[bytes]) -> SourceUnavailableError:
        return SourceUnavailableError(
            f"the log reader of {self._collector.name} ended early (exit code {worker.wait()})",
            "it continues where it stopped at the next interval",
        )

    def _stop(self) -> None:
        for worker in self._workers:
            worker.kill()
        with self._reading:  # a thread that still reads finds the pipe closed and lets go
            for worker in self._workers:
                worker.wait()
                for pipe in (worker.stdin, worker.stdout):
                    assert pipe is not None  # pipes were asked for
                    pipe.close()
            self._selector.close()


def share(work: Sequence[Work], workers: int) -> list[list[Work]]:
    """Files dealt out so that each worker has about as many unread bytes, newest first for each."""
    parts: list[list[Work]] = [[] for _ in range(workers)]
    load = [0] * workers
    for item in sorted(work, key=lambda item: unread_bytes(*item), reverse=True):
        lightest = load.index(min(load))
        parts[lightest].append(item)
        load[lightest] += unread_bytes(*item)
    for part in parts:
        part.sort(key=lambda item: item[0].mtime_ns, reverse=True)
    return [part for part in parts if part]


def unread_bytes(log: LogFile, position: Sequence[int] | None) -> int:
    """How much of a file is likely new; all of it when it must be read from the start."""
    offset = position[1] if position else 0
    return log.size - offset if offset <= log.size else log.size


def _end_with_parent(stdin: int) -> None:
    os.read(stdin, 1)  # the parent never writes again: what ends this read is its death
    os._exit(0)


def main() -> None:
    """Read the job from standard input, write batches to standard output."""
    import gc
    from datetime import UTC, datetime

    from collectors.agents.tail import LogFile
    from collectors.base import Context

    gc.disable()
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    job = msgspec.msgpack.decode(stdin.read(int.from_bytes(stdin.read(_LENGTH), "big")), type=_Job)
    threading.Thread(target=_end_with_parent, args=(stdin.fileno(),), daemon=True).start()
    module, _, name = job.collector.partition(":")
    kind = getattr(importlib.import_module(module), name)
    now = datetime.fromtimestamp(job.now, UTC)
    collector = kind(
        kind.options_type.model_validate(job.options),
        Context(
            home=Path(os.fsdecode(job.home)),
            config_home=Path(os.fsdecode(job.config_home)) if job.config_home else None,
            now=lambda: now,
        ),
    )
    files = [
        (LogFile(os.fsdecode(path), size, mtime_ns, inode, os.fsdecode(root)), position)
        for path, size, mtime_ns, inode, root, position in job.files
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
