"""Reading growing JSONL logs: bytes in, lines that hold a marker out, nothing lost or kept open.

A file's position is its inode, two checksums and the byte after the last complete line. Whatever
does not fit any more (rotated, rewritten, truncated, another file under the same inode) is read
again from the start; the ledger recognises what it has.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zlib import crc32

try:
    from stringzilla import find as _fast_find  # type: ignore[import-not-found]  # ships no stubs
except ImportError:  # no wheel for this platform: slower, otherwise the same
    _fast_find = None

BUFFER_BYTES = 1 << 20
LONGEST_LINE = 16 << 20
_HEAD_BYTES = 256
_TAIL_BYTES = 64

TOO_LONG = "line longer than 16 MiB"


class Position(NamedTuple):
    """How far a file was read, and what recognises it as the same file."""

    inode: int
    offset: int
    head_bytes: int
    head_check: int
    tail_check: int
    size: int
    mtime_ns: int
    parser: int


class LogFile(NamedTuple):
    """A log as found in its folder."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    root: str

    @property
    def name(self) -> str:
        """The path as text that can be stored and shown."""
        return printable(self.path)


def printable(path: str) -> str:
    r"""A path as text: bytes of it that are not UTF-8 are written as `\xff`."""
    if path.isascii():
        return path
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def has_changed(log: LogFile, position: Sequence[int] | None, parser: int) -> bool:
    """Whether a file must be opened: it is new, other, longer, shorter, touched, or parsed anew."""
    if position is None:
        return True
    # In the order of `Position`; thousands of files are compared at each poll.
    inode, _, _, _, _, size, mtime_ns, known_parser = position
    return (
        mtime_ns != log.mtime_ns or size != log.size or inode != log.inode or known_parser != parser
    )


Lines = list[tuple[bytes, int]]  # complete lines that hold a marker, and where each begins


@dataclass
class Progress:
    """Where reading one file stands; `position()` is what to store for it."""

    log: LogFile
    parser: int
    inode: int = 0
    offset: int = 0
    size: int = 0
    mtime_ns: int = 0
    head: tuple[int, int] = (0, 0)
    tail_check: int = 0
    too_long: list[tuple[int, int]] = field(default_factory=list)

    def position(self, *, is_final: bool = True) -> list[int]:
        """The position after the last whole buffer.

        One taken in the middle of a file has no size, so that the file is looked at again.
        """
        size = self.size if is_final else -1
        return [
            *Position(
                self.inode,
                self.offset,
                *self.head,
                self.tail_check,
                size,
                self.mtime_ns,
                self.parser,
            )
        ]

    def forget(self) -> None:
        """Let the file be read from its beginning next time."""
        self.move(0, b"")
        self.size = -1

    def move(self, offset: int, tail: bytes) -> None:
        """Note that everything before `offset` was handed out; `tail` is what it ended with."""
        self.offset = offset
        self.tail_check = crc32(tail)


class LineReader:
    """Reads files one after another through one buffer that is reused."""

    def __init__(self, markers: Sequence[bytes], *, find: Any = _fast_find) -> None:
        self._markers = tuple(markers)
        self._find = find
        self._buffer = bytearray(BUFFER_BYTES)
        self._filled = 0

    def count(self, text: bytes) -> int:
        """How often a text is in what was read last: at most one buffer of the last file."""
        return self._buffer.count(text, 0, self._filled)

    def read(
        self, log: LogFile, position: Sequence[int] | None, parser: int, progress: Progress
    ) -> Iterator[Lines]:
        """Lines after `position`, a buffer's worth at a time; `progress` is past those handed out.

        What is behind the size at the start of this call waits for the next one, and so does a
        last line without its newline.

        Raises:
            OSError: the file cannot be read, or is not a regular file.
        """
        # Not blocking and not following: a FIFO or a link of that name must not hold us up.
        fd = os.open(log.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(f"{log.path} is not a regular file")
            progress.inode, progress.size = info.st_ino, info.st_size
            progress.mtime_ns = info.st_mtime_ns
            offset = self._resume(fd, info, position, parser)
            progress.move(offset, _tail(fd, offset))
            head = os.pread(fd, min(_HEAD_BYTES, info.st_size), 0)
            progress.head = (len(head), crc32(head))
            yield from self._lines(fd, info.st_size, progress)
        finally:
            os.close(fd)

    @staticmethod
    def _resume(fd: int, info: os.stat_result, position: Sequence[int] | None, parser: int) -> int:
        if position is None:
            return 0
        known = Position(*position)
        if known.parser != parser or known.inode != info.st_ino or known.offset > info.st_size:
            return 0
        if crc32(os.pread(fd, known.head_bytes, 0)) != known.head_check:
            return 0
        if crc32(_tail(fd, known.offset)) != known.tail_check:
            return 0
        return known.offset

    def _lines(self, fd: int, size: int, progress: Progress) -> Iterator[Lines]:
        buffer = self._buffer
        base = progress.offset  # file offset of the buffer's first byte
        fill = 0
        skipping = -1  # offset of a line too long to keep, while its end is looked for
        tail = b""  # what was handed out last
        while base + fill < size:
            if tail and _tail(fd, progress.offset) != tail:
                progress.forget()  # rewritten while it was read
                return
            with memoryview(buffer) as view, view[fill : fill + size - base - fill] as room:
                count = os.preadv(fd, [room], base + fill)
            if count == 0:
                return  # shorter than a moment ago; the next look starts over
            fill += count
            self._filled = fill
            end = buffer.rfind(b"\n", 0, fill) + 1
            if end == 0:
                if skipping >= 0:
                    base += fill
                    fill = 0
                elif fill == len(buffer):
                    if len(buffer) < LONGEST_LINE:
                        buffer.extend(bytes(len(buffer)))
                    else:
                        skipping = base
                        base += fill
                        fill = 0
                continue
            start = 0
            if skipping >= 0:
                start = buffer.find(b"\n", 0, end) + 1
                progress.too_long.append((skipping, base + start - skipping))
                skipping = -1
            lines = self._hits(start, end, base)
            # What was handed out, not what the file says by now: it may have been rewritten.
            is_long = end >= _TAIL_BYTES
            tail = bytes(buffer[end - _TAIL_BYTES : end]) if is_long else _tail(fd, base + end)
            progress.move(base + end, tail)
            if lines:
                yield lines
            rest = fill - end
            if rest:
                buffer[:rest] = buffer[end:fill]
            base += end
            fill = rest
            if len(buffer) > BUFFER_BYTES and rest < BUFFER_BYTES:
                buffer = self._buffer = buffer[:BUFFER_BYTES]

    def _hits(self, start: int, end: int, base: int) -> Lines:
        """Every line between `start` and `end` of the buffer that holds a marker."""
        buffer, find = self._buffer, self._find
        lines: Lines = []
        with memoryview(buffer) as view:
            if len(self._markers) == 1 and find is not None:
                [marker] = self._markers
                while (hit := find(view, marker, start, end)) >= 0:
                    start = _take_line(buffer, view, start, hit, end, base, lines)
                return lines
            ahead = dict.fromkeys(self._markers, -1)
            while True:
                for marker, hit in ahead.items():
                    if hit < start:
                        found = buffer.find(marker, start, end)
                        ahead[marker] = found if found >= 0 else end
                hit = min(ahead.values())
                if hit >= end:
                    return lines
                start = _take_line(buffer, view, start, hit, end, base, lines)


def _take_line(
    buffer: bytearray, view: memoryview, start: int, hit: int, end: int, base: int, lines: Lines
) -> int:
    """Append the line around `hit`; return where the next one begins."""
    first = buffer.rfind(b"\n", start, hit) + 1 or start
    last = buffer.find(b"\n", hit, end)
    lines.append((bytes(view[first:last]), base + first))
    return last + 1


def _tail(fd: int, offset: int) -> bytes:
    start = max(0, offset - _TAIL_BYTES)
    return os.pread(fd, offset - start, start)
