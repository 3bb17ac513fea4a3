"""The one thread that touches the ledger's connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class LedgerThread:
    """Runs ledger calls one after another, so that two transactions can never meet."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call to its end, also when the waiting task is cancelled meanwhile."""
        future = asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: call(*args, **kwargs)
        )
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # A half-done commit cannot be taken back: wait for it, then pass the cancellation on.
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Wait for the running call and end the thread."""
        self._executor.shutdown(wait=True)
