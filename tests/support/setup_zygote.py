"""Runs the stack's set-up in one fresh process after another, and kills them where a test says.

A forked child of a process that has everything imported starts in a few milliseconds, so a test can
afford to kill one at every step. Children are root without capabilities, as in the container (where
tests run as root). One JSON line in, two out: the child's pid, then how it ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from influxdb import api, grafana_config, onboarding, secret_files, setup

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link"}


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def drop_capabilities() -> None:
    """Give up every capability, as `cap_drop: [ALL]` does."""
    header = _CapabilityHeader(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


class Counter:
    """Counts what changes the file system; kills the process just before the given change."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at, self.count = kill_at, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: called before the change happens."""
        is_change = event in CHANGES or (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if is_change:
            self.count += 1
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


# Mutants: each breaks one promise on purpose, and a test must notice.


def _written_in_place() -> None:
    def write(path: Path, content: bytes, mode: int) -> None:
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.write(content[:7])
            file.flush()
            path.chmod(mode)
            file.write(content[7:])

    for module in (secret_files, onboarding, grafana_config):
        module.write_whole = write  # type: ignore[attr-defined]


def _stored_after_onboarding() -> None:
    module: Any = onboarding
    real = module._log_in

    def make(path: Path, mode: int, *, length: int = 48, given: str = "") -> str:
        if path.name != "operator_token":
            return secret_files.keep_or_create(path, mode, length=length, given=given)
        return secret_files.read(path) or secret_files.generate(length)

    async def log_in(server: api.InfluxApi, stored: str, admin: str, org: str) -> tuple[str, str]:
        found: tuple[str, str] = await real(server, stored, admin, org)
        folder = Path(os.environ["SETUP_SECRETS"]) / "admin"
        secret_files.write_whole(folder / "operator_token", found[0].encode(), 0o600)
        return found

    module.keep_or_create = make
    module._log_in = log_in


def _orphans_stay() -> None:
    real = api.InfluxApi.call

    def call(self: api.InfluxApi, method: str, path: str, **rest: Any) -> Awaitable[api.Answer]:
        async def pretend() -> api.Answer:
            return api.Answer(204, {})

        return pretend() if method == "DELETE" else real(self, method, path, **rest)

    api.InfluxApi.call = call  # type: ignore[method-assign,assignment]


def _secrets_made_anew() -> None:
    def make(path: Path, mode: int, *, length: int = 48, given: str = "") -> str:
        made = given or secret_files.generate(length)
        secret_files.write_whole(path, made.encode(), mode)
        return made

    setup.keep_or_create = make  # type: ignore[attr-defined]


def _unfinished_file_reused() -> None:
    def write(path: Path, content: bytes, mode: int) -> None:
        unfinished = path.with_name(f".{path.name}.new")
        with unfinished.open("wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        unfinished.replace(path)

    secret_files.Vault.prepare = _prepare_only_folders  # type: ignore[method-assign]
    for module in (secret_files, onboarding, grafana_config):
        module.write_whole = write  # type: ignore[attr-defined]


def _prepare_only_folders(self: secret_files.Vault) -> None:
    for name, mode in (("admin", 0o700), ("grafana", 0o755), ("exporter", 0o755)):
        (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / name).chmod(mode)


def _scope_not_checked() -> None:
    module: Any = onboarding
    module._fits = lambda *_: True


def _token_not_tried() -> None:
    async def accept(*_: Any) -> bool:
        return True

    module: Any = onboarding
    module._is_accepted = accept


def _files_not_checked() -> None:
    module: Any = grafana_config
    module._checked = lambda *arguments: arguments[1]


MUTANTS: Mapping[str, Callable[[], None]] = {
    "": lambda: None,
    "written_in_place": _written_in_place,
    "stored_after_onboarding": _stored_after_onboarding,
    "orphans_stay": _orphans_stay,
    "secrets_made_anew": _secrets_made_anew,
    "unfinished_file_reused": _unfinished_file_reused,
    "scope_not_checked": _scope_not_checked,
    "token_not_tried": _token_not_tried,
    "files_not_checked": _files_not_checked,
}


def run_child(task: Mapping[str, Any], report: int) -> int:
    """What the child does: become what the task says, run the set-up, tell how much it changed."""
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    if os.geteuid() == 0:
        drop_capabilities()
    os.umask(int(task.get("umask", 0o077)))
    os.environ.clear()
    os.environ.update(task["environ"])
    MUTANTS[task.get("mutant", "")]()
    counter = Counter(int(task.get("kill_at", 0)))
    sys.addaudithook(counter)
    code = setup.main(os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(report, str(counter.count).encode())
    return code


def main() -> None:
    """Serve one task a line until the input ends."""
    for line in sys.stdin:
        task = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = run_child(task, writer)
            except BaseException as error:  # noqa: BLE001 - reported, and the child ends here
                os.write(2, f"CRASH {error!r}\n".encode())
            finally:
                os._exit(code)
        os.close(writer)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        with os.fdopen(reader, "rb") as pipe:
            changes = int(pipe.read() or 0)
        ended = {"code": os.waitstatus_to_exitcode(status), "changes": changes}
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
