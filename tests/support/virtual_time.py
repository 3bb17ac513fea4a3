"""An event loop whose clock jumps to the next timer as soon as no socket has anything to say.

Days pass in seconds, with real sockets and real servers in the same loop, and the same seed gives
the same run. It needs every wait to be the loop's time: no `time.sleep`, no deadline by the wall
clock, and nothing in threads that a timer might overtake.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

START: Final = datetime(2026, 11, 2, tzinfo=UTC)
# Loopback delivers at once, but not within the same system call.
GRACE_SECONDS: Final = 0.0005


class _JumpingSelector(selectors.DefaultSelector):
    """Reports sockets as usual; instead of waiting for a timer it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # no timer at all: only a socket or a thread can go on
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout > 0:
            ready = super().select(GRACE_SECONDS)
            if not ready:
                self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `wall_clock` is the clock to give to what is tested."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._jumping.now

    def wall_clock(self) -> datetime:
        """`START` plus what has gone by in this loop."""
        return START + timedelta(seconds=self.time())


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own, in no time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make an async test one that runs in a virtual loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtual(test(*args, **kwargs))

    return run


def virtual_clock() -> datetime:
    """The wall clock of the running virtual loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "not inside run_virtual()"
    return loop.wall_clock()
