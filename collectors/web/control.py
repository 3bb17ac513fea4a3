"""The control socket: how a command reaches the process that holds the ledger.

HTTP on a Unix socket of mode 0600 in the ledger's folder: only this user can connect.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector, web

from collectors.errors import TokendashError

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
LONGEST_BODY = 64 << 10


class ControlServer:
    """Answers commands with what their handlers return."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self.path = path
        self._handlers = dict(handlers)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; the caller holds the ledger's lock, so a socket found here is a leftover."""
        app = web.Application(client_max_size=LONGEST_BODY)
        app.router.add_post("/commands/{name}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        mask = os.umask(0o177)  # the socket is made with its mode, never open for a moment
        try:
            await web.UnixSite(self._runner, str(self.path)).start()
        finally:
            os.umask(mask)

    async def close(self) -> None:
        """Stop listening and take the socket away."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    async def _answer(self, request: web.Request) -> web.Response:
        handler = self._handlers.get(request.match_info["name"])
        if handler is None:
            return web.json_response({"error": "no such command"}, status=404)
        try:
            arguments = await request.json() if request.can_read_body else {}
            return web.json_response({"result": await handler(arguments)})
        except TokendashError as error:
            return web.json_response({"error": str(error), "hint": error.hint}, status=409)
        except ValueError:
            return web.json_response({"error": "the command's arguments are not JSON"}, status=400)


class ControlError(TokendashError):
    """The daemon refused a command."""


async def ask(path: Path, name: str, arguments: Mapping[str, Any], limit: float = 600) -> Any:
    """Have the running daemon do something; None when no daemon answers.

    Raises:
        ControlError: it answered with an error.
    """
    if not path.exists():
        return None
    try:
        async with (
            ClientSession(
                connector=UnixConnector(str(path)), timeout=ClientTimeout(total=limit)
            ) as session,
            session.post(
                f"http://localhost/commands/{name}", json=dict(arguments), allow_redirects=False
            ) as reply,
        ):
            body = await reply.json()
    except (ClientError, OSError):
        return None
    if "error" in body:
        raise ControlError(str(body["error"]), str(body.get("hint", "")))
    return body["result"]
