"""Killing a ledger's writer: at random, at each system call, by a power loss, by a failing call.

Children are forked from the warm test process and handed to strace by process id, so that one
death costs milliseconds and the first call counted is the first of the work, not of Python.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

WRITING = ("pwrite64", "fdatasync", "fsync", "ftruncate", "unlink", "openat", "rename", "fcntl")
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\(")


def report(fault: str, **figures: Any) -> None:
    """Print one JSON line of evidence."""
    print(json.dumps({"fault": fault, **figures}))


def start(work: Callable[[], None], *, waits: bool = False) -> tuple[int, int]:
    """Fork a child that does some work; return its id and, if it waits, what releases it."""
    ready, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(release)
            if waits:
                os.read(ready, 1)
            os.close(ready)
            work()
            code = 0
        except BaseException as error:  # noqa: BLE001 - a child must never return into pytest
            os.write(2, f"child: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    os.close(ready)
    if not waits:
        os.close(release)
        return pid, -1
    return pid, release


def finish(pid: int) -> int:
    """Wait for a child; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def trace(strace: str, work: Callable[[], None], *options: str) -> int:
    """Run work in a child under strace with these options; its exit code as in `finish`."""
    pid, release = start(work, waits=True)
    tracer = subprocess.Popen(
        [strace, "-f", "-qq", *options, "-p", str(pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        status = Path(f"/proc/{pid}/status")
        deadline = time.monotonic() + 20
        while f"TracerPid:\t{tracer.pid}\n" not in status.read_text():
            if tracer.poll() is not None or time.monotonic() > deadline:
                kill(pid)
                raise RuntimeError("strace could not attach to the child")
            time.sleep(0.001)
        os.write(release, b"x")
        os.close(release)
        code = finish(pid)
    finally:
        if tracer.poll() is None:
            tracer.wait(20)
    return code


def list_calls(
    strace: str, work: Callable[[], None], names: tuple[str, ...], to: Path
) -> Counter[str]:
    """How often the work makes each of these calls."""
    code = trace(strace, work, "-o", str(to), "-e", f"trace={','.join(names)}")
    assert code == 0, f"the work itself failed ({code})"
    found = (_CALL.match(line) for line in to.read_text(errors="replace").splitlines())
    return Counter(match[1] for match in found if match)


def spread(calls: Mapping[str, int], most: int) -> list[tuple[str, int]]:
    """Every call, or evenly chosen ones when there are more than `most`."""
    points = [(name, number) for name in calls for number in range(1, calls[name] + 1)]
    step = max(1, -(-len(points) // most))
    return points[::step]


def kill_at(name: str, number: int) -> tuple[str, ...]:
    """Options that kill at the n-th call of a name."""
    return (
        "-o", "/dev/null", "-e", f"trace={name}",
        "-e", f"inject={name}:signal=SIGKILL:when={number}",
    )  # fmt: skip


def fail_at(name: str, number: int, error: str) -> tuple[str, ...]:
    """Options that let the n-th call of a name fail once."""
    return (
        "-o", "/dev/null", "-e", f"trace={name}",
        "-e", f"inject={name}:error={error}:when={number}",
    )  # fmt: skip


# -- power loss ------------------------------------------------------------------------------------


class _Op(NamedTuple):
    kind: str  # link, unlink, rename, write, truncate, sync, ack
    inode: int = 0
    name: str = ""
    number: int = 0
    data: bytes = b""


@dataclass
class PowerLoss:
    """Everything a run did to the files of one folder, and the states a disk may be left in.

    Data is sure only up to the last sync of its own file; later writes are kept or dropped at
    random, and one of them may be torn at a sector. Changes of names survive as a prefix, and are
    sure after the next sync of anything.
    """

    ops: list[_Op] = field(default_factory=list)

    @classmethod
    def record(
        cls, strace: str, work: Callable[[Callable[[int], None]], None], folder: Path, to: Path
    ) -> PowerLoss:
        """Trace work; it is given a function that notes how many calls are acknowledged."""
        acks = to.with_suffix(".ack")

        def run() -> None:
            fd = os.open(acks, os.O_CREAT | os.O_WRONLY, 0o600)

            def acknowledge(number: int) -> None:
                os.write(fd, b"ACK %d;" % number)

            work(acknowledge)
            os.kill(os.getpid(), signal.SIGKILL)

        calls = "openat,pwrite64,write,ftruncate,fsync,fdatasync,unlink,rename"
        trace(strace, run, "-xx", "-y", "-s", "9999999", "-o", str(to), "-e", f"trace={calls}")
        return cls(list(_read_trace(to, folder, acks)))

    def states(self, variants: int, seed: int) -> Iterator[tuple[int, dict[str, bytes]]]:
        """Number of acknowledged calls and files, for every moment and several ways to lose."""
        chance = random.Random(seed)
        acked = 0
        for moment in range(1, len(self.ops) + 1):
            if self.ops[moment - 1].kind == "ack":
                acked = self.ops[moment - 1].number
            for mode in range(variants):
                yield acked, self._state(moment, mode, chance)

    def _state(self, moment: int, mode: int, chance: random.Random) -> dict[str, bytes]:
        last_sync: dict[int, int] = {}
        any_sync = -1
        for index, op in enumerate(self.ops[:moment]):
            if op.kind == "sync":
                last_sync[op.inode] = any_sync = index
        done = range(moment)
        naming = ("link", "unlink", "rename")
        late = [i for i in done if self.ops[i].kind in naming and i > any_sync]
        pending = [
            i
            for i in done
            if self.ops[i].kind in ("write", "truncate")
            and i > last_sync.get(self.ops[i].inode, -1)
        ]
        if mode == 0:
            kept, names = set[int](), 0
        elif mode == 1:
            kept, names = set(pending), len(late)
        elif mode == 2:
            kept = set(pending[: chance.randrange(len(pending) + 1)])
            names = chance.randrange(len(late) + 1)
        else:
            share = chance.choice((0.2, 0.5, 0.8))
            kept = {i for i in pending if chance.random() < share}
            names = chance.randrange(len(late) + 1)
        torn = chance.choice(sorted(kept)) if kept and mode >= 4 else -1
        return self._build(done, set(pending) - kept | set(late[names:]), torn, chance)

    def _build(
        self, done: range, lost: set[int], torn: int, chance: random.Random
    ) -> dict[str, bytes]:
        content: dict[int, bytearray] = {}
        names: dict[str, int] = {}
        for index in done:
            op = self.ops[index]
            if index in lost:
                continue
            if op.kind == "link":
                names[op.name] = op.inode
            elif op.kind == "unlink":
                names.pop(op.name, None)
            elif op.kind == "rename":
                old, new = op.name.split("\0")
                if old in names:
                    names[new] = names.pop(old)
            elif op.kind == "truncate":
                body = content.setdefault(op.inode, bytearray())
                del body[op.number :]
            elif op.kind == "write":
                data = op.data
                if index == torn:
                    data = data[: chance.randrange(len(data) // 512 + 1) * 512]
                body = content.setdefault(op.inode, bytearray())
                body.extend(bytes(max(0, op.number + len(data) - len(body))))
                body[op.number : op.number + len(data)] = data
        return {name: bytes(content.get(inode, b"")) for name, inode in names.items()}


def put_state(files: Mapping[str, bytes], folder: Path) -> None:
    """Make a folder hold exactly these files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_FD = re.compile(r"^(\d+)<((?:\\x[0-9a-f]{2})+)>")


def _read_trace(to: Path, folder: Path, acks: Path) -> Iterator[_Op]:
    inodes: dict[str, int] = {}
    cursor: dict[int, int] = {}  # where the next write() of a file goes
    made = 0
    for line in to.read_text().splitlines():
        match = _LINE.match(line)
        if match is None or int(match[3]) < 0:
            continue
        call, arguments = match[1], match[2]
        strings = [_unhex(x).decode(errors="replace") for x in re.findall(r'"([^"]*)"', arguments)]
        fd = _FD.match(arguments)
        path = Path(_unhex(fd[2]).decode()) if fd else Path(strings[0] if strings else "/")
        if call == "write" and path == acks:
            body = _unhex(re.findall(r'"([^"]*)"', arguments)[0])
            yield _Op("ack", number=int(re.findall(rb"ACK (\d+)", body)[-1]))
            continue
        if call in ("fsync", "fdatasync") and path == folder:
            yield _Op("sync")
            continue
        if path.parent != folder or path.name.endswith(("-shm", ".lock")):
            continue
        name = path.name
        if call == "openat":
            if "O_CREAT" in arguments and name not in inodes:
                made += 1
                inodes[name] = made
                cursor[made] = 0
                yield _Op("link", made, name)
            elif "O_TRUNC" in arguments:
                cursor[inodes[name]] = 0
                yield _Op("truncate", inodes[name], number=0)
        elif call == "unlink":
            inodes.pop(name, None)
            yield _Op("unlink", name=name)
        elif call == "rename":
            new = Path(strings[1]).name
            inodes[new] = inodes.pop(name)
            yield _Op("rename", name=f"{name}\0{new}")
        elif call == "pwrite64":
            body = _unhex(re.findall(r'"([^"]*)"', arguments)[0])
            yield _Op("write", inodes[name], number=int(arguments.rsplit(", ", 1)[1]), data=body)
        elif call == "write":
            body = _unhex(re.findall(r'"([^"]*)"', arguments)[0])
            inode = inodes[name]
            yield _Op("write", inode, number=cursor[inode], data=body)
            cursor[inode] += len(body)
        elif call == "ftruncate":
            yield _Op("truncate", inodes[name], number=int(arguments.rsplit(", ", 1)[1]))
        else:
            yield _Op("sync", inodes[name])
