"""How a target is doing: failures in a row and the pause they have earned."""

from __future__ import annotations

import asyncio
import enum
import random
from typing import Final

from collectors.errors import TargetError
from collectors.outputs.influx.answers import LONGEST_PAUSE

FIRST_PAUSE: Final = 5.0
FIRST_PAUSE_OF_SETUP: Final = 60.0


class State(enum.StrEnum):
    """How a target is doing."""

    OK = "ok"
    UNREACHABLE = "unreachable"  # out of reach, overloaded or broken
    MISCONFIGURED = "misconfigured"  # nothing helps but a change of the settings


class Health:
    """State of one target, in the loop's time, which no change of the wall clock can stretch."""

    def __init__(self, rng: random.Random) -> None:
        self.state = State.OK
        self.error: TargetError | None = None
        self.failures = 0
        self.failed_at = float("-inf")
        self._rng = rng
        self._failing_since = 0.0
        self._not_before = float("-inf")

    def failed(self, error: TargetError, asked: float, *, is_setup: bool) -> bool:
        """Count a failure and set the pause; true when this is news."""
        now = asyncio.get_running_loop().time()
        state = State.MISCONFIGURED if is_setup else State.UNREACHABLE
        is_news = state is not self.state
        if self.state is State.OK:
            self._failing_since = now
        first = FIRST_PAUSE_OF_SETUP if is_setup else FIRST_PAUSE
        own = first * 2.0 ** min(self.failures, 30) * self._rng.uniform(0.75, 1.25)
        self.state, self.error, self.failed_at = state, error, now
        self.failures += 1
        self._not_before = now + min(max(own, asked), LONGEST_PAUSE)
        return is_news

    def recovered(self) -> float | None:
        """Back to normal: the seconds it had failed for, or None when it had not."""
        if self.state is State.OK:
            return None
        self.state, self.error, self.failures = State.OK, None, 0
        self._not_before = float("-inf")
        return asyncio.get_running_loop().time() - self._failing_since

    def seconds_left(self) -> float:
        """Seconds until the next request is allowed."""
        return max(0.0, self._not_before - asyncio.get_running_loop().time())
