"""Which logs there are: folders remembered, so that a look at unchanged ones is a `stat` each."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from collectors.agents.tail import LogFile, printable

# A folder changed this recently is listed again: its time may be too coarse to show a change that
# came right after the last look.
_SETTLED_NS = 2_000_000_000


@dataclass
class Listing:
    """The logs under some roots, and what could not be looked into."""

    files: list[LogFile] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


@dataclass
class _Folder:
    """A folder as it was listed."""

    mtime_ns: int
    is_settled: bool
    folders: list[str]
    names: list[str]  # full paths of entries that are named like logs


class LogTree:
    """Every regular file whose name passes, once, however roots and links overlap.

    Links to folders inside a root are not followed; a root itself may be a link.
    """

    def __init__(self, is_log: Callable[[str], bool]) -> None:
        self._is_log = is_log
        self._folders: dict[str, _Folder] = {}
        self._logs: dict[str, LogFile] = {}

    def look(self, roots: Iterable[str]) -> Listing:
        """All logs there are now."""
        listing = Listing()
        folders: dict[str, _Folder] = {}
        logs: dict[str, LogFile] = {}
        seen: set[str] = set()
        for root in roots:
            real = os.path.realpath(root)
            stack = [real]
            while stack:
                path = stack.pop()
                if path in seen:
                    continue
                seen.add(path)
                try:
                    folder = folders[path] = self._folder(path)
                except FileNotFoundError:
                    continue
                except OSError:
                    listing.unreadable.append(printable(path))
                    continue
                stack.extend(folder.folders)
                if not self._stat(folder, real, logs):
                    listing.unreadable.append(printable(path))
        self._folders, self._logs = folders, logs
        listing.files = list(logs.values())
        return listing

    def _folder(self, path: str) -> _Folder:
        info = os.stat(path)  # noqa: PTH116 - hundreds at each poll; a Path costs more than the call
        known = self._folders.get(path)
        if known is not None and known.is_settled and known.mtime_ns == info.st_mtime_ns:
            return known
        folder = _Folder(info.st_mtime_ns, time.time_ns() - info.st_mtime_ns > _SETTLED_NS, [], [])
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folder.folders.append(entry.path)
                elif self._is_log(entry.name):
                    folder.names.append(entry.path)
        return folder

    def _stat(self, folder: _Folder, root: str, logs: dict[str, LogFile]) -> bool:
        """Note the logs of a folder; false when its entries cannot be looked at."""
        known, lstat, is_regular = self._logs, os.lstat, stat.S_ISREG
        is_readable = True
        for path in folder.names:
            try:
                info = lstat(path)
            except FileNotFoundError:
                continue
            except OSError:  # a folder that may be listed but not entered
                is_readable = False
                continue
            log = known.get(path)
            if (
                log is None
                or log.mtime_ns != info.st_mtime_ns
                or log.size != info.st_size
                or log.inode != info.st_ino
                or log.root != root
            ):
                if not is_regular(info.st_mode):
                    continue
                log = LogFile(path, info.st_size, info.st_mtime_ns, info.st_ino, root)
            logs[path] = log
        return is_readable


def list_logs(roots: Iterable[str], is_log: Callable[[str], bool]) -> Listing:
    """All logs under some roots, seen for the first time."""
    return LogTree(is_log).look(roots)
