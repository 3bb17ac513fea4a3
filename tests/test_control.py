"""The control socket: private, for one daemon, and clear about what went wrong."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector
from structlog.testing import capture_logs

from collectors.composition import Places
from collectors.errors import LedgerError
from collectors.web.control import ControlError, ControlServer, ask


@pytest.fixture
def path() -> Iterator[Path]:
    """A socket path that is short enough, whatever the test's own folder is called."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "data" / "ledger.sock"


async def echo(arguments: Mapping[str, Any]) -> Any:
    return {"got": dict(arguments)}


async def refuse(arguments: Mapping[str, Any]) -> Any:
    raise LedgerError("no room is left", "make room")


async def break_down(arguments: Mapping[str, Any]) -> Any:
    raise ValueError("sk-canary-0200")


async def never(arguments: Mapping[str, Any]) -> Any:
    await asyncio.get_running_loop().create_future()


HANDLERS = {"echo": echo, "refuse": refuse, "break": break_down, "never": never}


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, HANDLERS)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def post(path: Path, command: str, body: bytes, **headers: str) -> tuple[int, Any]:
    """A request as anything but `ask` might send it."""
    async with (
        ClientSession(connector=UnixConnector(str(path))) as session,
        session.post(f"http://localhost/commands/{command}", data=body, headers=headers) as reply,
    ):
        return reply.status, await reply.json()


async def test_a_command_is_answered_with_what_its_handler_returns(path: Path) -> None:
    async with serving(path):
        assert await ask(path, "echo", {"a": [1, "ü"]}) == {"got": {"a": [1, "ü"]}}
        assert await post(path, "echo", b"") == (200, {"result": {"got": {}}})


async def test_only_this_user_can_connect(path: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(path):
            mode = path.lstat().st_mode
            folder_mode = stat.S_IMODE(path.parent.stat().st_mode)
            mask = os.umask(0)
    finally:
        os.umask(before)

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert folder_mode == 0o700
    assert mask == 0  # left as it was found


async def test_the_socket_goes_away_with_its_server(path: Path) -> None:
    async with serving(path):
        pass

    assert not path.exists()
    assert await ask(path, "echo", {}) is None


async def test_a_refusal_comes_with_its_hint(path: Path) -> None:
    async with serving(path):
        with pytest.raises(ControlError) as caught:
            await ask(path, "refuse", {})

    assert (str(caught.value), caught.value.hint) == ("no room is left", "make room")


async def test_a_command_that_breaks_is_an_error_not_a_missing_daemon(path: Path) -> None:
    with capture_logs() as logs:
        async with serving(path):
            with pytest.raises(ControlError) as caught:
                await ask(path, "break", {})
            answer = await ask(path, "echo", {})

    assert str(caught.value) == "the command break failed in the daemon (ValueError)"
    assert "canary" not in f"{caught.value} {caught.value.hint}"
    assert [(entry["event"], entry["command"]) for entry in logs] == [("command.failed", "break")]
    assert answer == {"got": {}}


async def test_an_unknown_command_is_named(path: Path) -> None:
    async with serving(path):
        with pytest.raises(ControlError, match="there is no command 'dance'"):
            await ask(path, "dance", {})


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[1, 2]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"a": 1} trailing',
    ],
)
async def test_arguments_that_are_no_json_object_are_refused(path: Path, body: bytes) -> None:
    async with serving(path):
        status, answer = await post(path, "echo", body)

    assert (status, answer) == (400, {"error": "the command's arguments are not a JSON object"})


async def test_an_unknown_charset_is_refused(path: Path) -> None:
    kind = {"Content-Type": "application/json; charset=klingon"}

    async with serving(path):
        status, _ = await post(path, "echo", b"{}", **kind)

    assert status == 400


async def test_a_body_that_is_too_large_is_refused_and_the_server_lives(path: Path) -> None:
    async with serving(path):
        status, answer = await post(path, "echo", json.dumps({"a": "x" * 70_000}).encode())

        assert (status, list(answer)) == (413, ["error"])
        assert await ask(path, "echo", {}) == {"got": {}}


async def test_a_command_that_takes_too_long_is_said_to_be_still_at_it(path: Path) -> None:
    async with serving(path):
        with pytest.raises(ControlError) as caught:
            await ask(path, "never", {}, limit=0.05)

    assert "did not finish never within 0.05 s" in str(caught.value)


async def test_closing_does_not_wait_for_a_command_that_hangs(path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with serving(path):
        hanging = asyncio.ensure_future(ask(path, "never", {}))
        await asyncio.sleep(0.05)
        before = loop.time()
    took = loop.time() - before

    assert took < 3
    assert await hanging is None  # the daemon went away in the middle


@pytest.mark.parametrize("leftover", ["socket", "file", "dangling link"])
async def test_a_leftover_of_a_killed_daemon_is_replaced(path: Path, leftover: str) -> None:
    path.parent.mkdir()
    if leftover == "socket":
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(path))
        dead.close()
        assert await ask(path, "echo", {}) is None
    elif leftover == "file":
        path.touch()
        assert await ask(path, "echo", {}) is None
    else:
        path.symlink_to(path.parent / "nowhere")
        assert await ask(path, "echo", {}) is None

    async with serving(path):
        assert await ask(path, "echo", {}) == {"got": {}}


async def test_something_else_that_answers_is_named(path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi")
        writer.close()

    path.parent.mkdir()
    server = await asyncio.start_unix_server(answer, str(path))
    async with server:
        with pytest.raises(ControlError, match="is not tokendash"):
            await ask(path, "echo", {})


async def test_a_path_that_is_too_long_is_an_error_of_the_system(tmp_path: Path) -> None:
    server = ControlServer(tmp_path / ("x" * 120) / "ledger.sock", HANDLERS)

    with pytest.raises(OSError, match="AF_UNIX path too long"):
        await server.start()


def test_a_ledger_with_a_long_path_has_its_socket_in_a_private_temporary_folder(
    tmp_path: Path,
) -> None:
    short = Places(Path("/data/ledger.db"), tmp_path).socket
    one = Places(tmp_path / ("x" * 120) / "ledger.db", tmp_path).socket
    other = Places(tmp_path / ("y" * 120) / "ledger.db", tmp_path).socket

    assert short == Path("/data/ledger.sock")
    assert one != other
    assert one.parent == Path(tempfile.gettempdir()) / f"tokendash-{os.getuid()}"
    assert len(os.fsencode(one)) < 100


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make another user's folder")
async def test_a_folder_that_another_user_put_in_the_common_one_is_not_used(path: Path) -> None:
    common = path.parent / "common"
    common.mkdir(parents=True)
    common.chmod(0o1777)
    (common / "tokendash-0").mkdir()
    os.chown(common / "tokendash-0", 12_345, 12_345)

    with pytest.raises(PermissionError, match="belongs to another user"):
        await ControlServer(common / "tokendash-0" / "x.sock", HANDLERS).start()
