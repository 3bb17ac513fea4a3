"""The control socket: how a command reaches the process that holds the ledger.

HTTP on a Unix socket of mode 0600 in the ledger's folder: only this user can connect.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout, ContentTypeError, UnixConnector, web

from collectors.errors import TokendashError

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
LONGEST_BODY = 64 << 10
CLOSE_SECONDS = 1.0  # a stop does not wait longer for a command that is being answered


class ControlServer:
    """Answers commands with what their handlers return."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self.path = path
        self._handlers = dict(handlers)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; the caller holds the ledger's lock, so a socket found here is a leftover.

        Raises:
            OSError: there can be no socket at this place.
        """
        app = web.Application(client_max_size=LONGEST_BODY)
        app.router.add_post("/commands/{name}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        await runner.setup()
        try:
            await web.SockSite(runner, _private_socket(self.path)).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner

    async def close(self) -> None:
        """Stop listening and take the socket away."""
        if self._runner is None:
            return
        await self._runner.cleanup()
        self._runner = None
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    async def _answer(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        handler = self._handlers.get(name)
        if handler is None:
            return web.json_response({"error": f"there is no command {name!r}"}, status=404)
        try:
            arguments = await request.json() if request.can_read_body else {}
        except web.HTTPException as error:
            return web.json_response({"error": error.reason}, status=error.status)
        except (ValueError, LookupError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            return web.json_response(
                {"error": "the command's arguments are not a JSON object"}, status=400
            )
        try:
            return web.json_response({"result": await handler(arguments)})
        except TokendashError as error:
            return web.json_response({"error": str(error), "hint": error.hint}, status=409)
        except Exception as error:  # noqa: BLE001 - a command that fails must not look like no daemon
            structlog.get_logger().error("command.failed", command=name, exc_info=error)
            text = f"the command {name} failed in the daemon ({type(error).__name__})"
            return web.json_response({"error": text, "hint": "see the daemon's log"}, status=500)


def _private_socket(path: Path) -> socket.socket:
    """A bound socket that only this user can reach, from its first moment on."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.parent.stat().st_mode & stat.S_ISVTX and folder.stat().st_uid != os.geteuid():
        # In a temporary folder of everybody's, the first to take a name may be somebody else.
        raise PermissionError(errno.EPERM, "the socket's folder belongs to another user")
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        found.bind(str(path))
    except BaseException:
        found.close()
        raise
    finally:
        os.umask(mask)
    return found


class ControlError(TokendashError):
    """The daemon refused a command, or could not do it."""


async def ask(path: Path, name: str, arguments: Mapping[str, Any], limit: float = 600) -> Any:
    """Have the running daemon do something; None when no daemon answers.

    Raises:
        ControlError: it answered with an error, or not in time; or the socket is another user's.
    """
    if not _is_own_socket(path):
        return None
    connector = UnixConnector(str(path))
    seconds = ClientTimeout(total=limit)
    url = f"http://localhost/commands/{name}"
    try:
        async with (
            ClientSession(connector=connector, timeout=seconds) as session,
            session.post(url, json=dict(arguments), allow_redirects=False) as reply,
        ):
            body = await reply.json()
    except TimeoutError:
        raise ControlError(
            f"the daemon did not finish {name} within {limit:g} s", "it may still be at it"
        ) from None
    except (ContentTypeError, ValueError):
        raise ControlError(
            f"what answers at {path} is not tokendash", "stop it, or remove the socket"
        ) from None
    except (ClientError, OSError):
        return None
    if "error" in body:
        raise ControlError(str(body["error"]), str(body.get("hint", "")))
    return body["result"]


def _is_own_socket(path: Path) -> bool:
    """Whether there is a socket to ask.

    Raises:
        ControlError: another user put it there, where it is in a folder that all may write.
    """
    try:
        status = path.lstat()
    except OSError:
        return False
    if not stat.S_ISSOCK(status.st_mode):
        return False
    if status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise ControlError(
            f"the socket {path} belongs to another user", "ask as that user, or remove it"
        )
    return True
