"""The InfluxDB writer: takes what is due from the ledger, sends it, notes what was acknowledged.

Everything it promises rests on the ledger: a row stays due until it was answered with 204 at the
revision that was sent, so a lost answer, a crash or a month without a database cost nothing but a
second request. Timestamps are fixed, so sending twice stores once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from collectors.clock import Clock, system_clock
from collectors.errors import TargetError
from collectors.outputs.influx.answers import Answer, Verdict, judge, pause_asked_for
from collectors.outputs.influx.health import Health, State
from collectors.outputs.influx.link import PROBE, InfluxTarget, Link, Run
from collectors.outputs.influx.sending import Memory, Outbox, Pass
from collectors.outputs.lines import LineBuilder

BATCH_LINES: Final = 2_000
BATCH_BYTES: Final = 1_000_000
REQUEST_SECONDS: Final = 30.0
# 10,000 rows a second: a first backfill of a million takes two minutes and leaves room for others.
REQUESTS_PER_SECOND: Final = 5.0


@dataclass(frozen=True)
class FlushResult:
    """What one pass did; `error` says why it ended early."""

    sent: int = 0
    refused: int = 0
    outside_retention: int = 0
    pending: int = 0
    state: State = State.OK
    error: TargetError | None = None


class InfluxWriter:
    """Sends a ledger's outbox to one InfluxDB, one request and one batch at a time.

    Create it inside the running loop, one per target and process. `run` is how calls reach the
    ledger's thread.
    """

    def __init__(
        self,
        target: InfluxTarget,
        outbox: Outbox,
        run: Run,
        *,
        clock: Clock = system_clock,
        rng: random.Random | None = None,
        interval: float = 30.0,
        timeout: float = REQUEST_SECONDS,
        batch_lines: int = BATCH_LINES,
        batch_bytes: int = BATCH_BYTES,
        requests_per_second: float = REQUESTS_PER_SECOND,
    ) -> None:
        self.wake = asyncio.Event()  # set it to send before the interval is over
        self.gauge_failures = 0
        self._outbox = outbox
        self._run = run
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._interval = interval
        self._link = Link(target, run, timeout, requests_per_second)
        self._health = Health(self._rng)
        self._memory = Memory(batch_lines, batch_bytes)
        self._lines = LineBuilder()
        self._flushing = asyncio.Lock()

    @property
    def state(self) -> State:
        """How the target did the last time something was sent."""
        return self._health.state

    @property
    def error(self) -> TargetError | None:
        """Why the last pass failed, if it did."""
        return self._health.error

    async def flush(self, now: float) -> FlushResult:
        """Send everything that is due at wall-clock `now`, until nothing is left or a failure.

        Always tries, whatever pause `run` is in. A failure of the target is in the result.

        Raises:
            LedgerError: the outbox offers the same rows for ever.
        """
        async with self._flushing:
            target = self._link.target
            number = await self._run(self._outbox.target, target.address, target.org, target.bucket)
            current = Pass(
                self._outbox,
                number,
                self._link,
                self._health,
                self._memory,
                run=self._run,
                lines=self._lines,
                clock=self._clock,
                rng=self._rng,
                now=now,
            )
            answer = await current.send_all()
            pending = await self._run(self._outbox.pending, number)
            if answer is None:
                self._recovered(pending)
            else:
                self._failed(answer, pending, made_progress=current.sent > 0)
            current.log_set_aside()
            return FlushResult(
                sent=current.sent,
                refused=current.refused,
                outside_retention=current.outside_retention,
                pending=pending,
                state=self._health.state,
                error=self._health.error,
            )

    async def run(self, stop: asyncio.Event) -> None:
        """Send every interval, or when woken, until `stop` is set; then drop what is in flight.

        A request that is cut off is one whose answer is unknown: the next start sends it again.
        """
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send_for_ever())
            await stop.wait()
            sending.cancel()

    async def _send_for_ever(self) -> None:
        while True:
            result = await self.flush(self._clock().timestamp())
            if result.state is State.OK:
                await self._idle(self._interval * self._rng.uniform(0.9, 1.1))
            else:
                # News do not shorten this pause: one probe at a time.
                await asyncio.sleep(self._health.seconds_left())

    async def _idle(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            pass
        self.wake.clear()

    async def send_gauges(self, lines: Sequence[str]) -> bool:
        """Send status points that the ledger does not keep, once; a failure is only counted."""
        if not lines:
            return True
        if self._health.seconds_left() == 0:
            answer = await self._link.post("\n".join(lines))
            if judge(answer) is Verdict.ACCEPTED:
                return True
        self.gauge_failures += 1
        return False

    async def reachable(self) -> str:
        """Where writes go, when the target would take one now; stores nothing.

        Raises:
            TargetError: it would not; message and hint say why and what to do.
        """
        answer = await self._link.post(PROBE)
        if judge(answer) is not Verdict.ACCEPTED:
            raise self._link.explain(answer)
        return f"{self._link.target.address} takes writes to bucket {self._link.target.bucket!r}"

    async def close(self) -> None:
        """Close the connections; the writer may be used again."""
        await self._link.close()

    def _failed(self, answer: Answer, pending: int, *, made_progress: bool) -> None:
        if made_progress:
            self._health.failures = 0  # a target that takes something deserves a short pause
        error = self._link.explain(answer)
        is_news = self._health.failed(
            error,
            pause_asked_for(answer, self._clock()),
            is_setup=judge(answer) is not Verdict.LATER,
        )
        log = structlog.get_logger()
        report = log.warning if is_news else log.debug
        report("influx.failed", error=str(error), hint=error.hint, pending=pending)

    def _recovered(self, pending: int) -> None:
        seconds = self._health.recovered()
        if seconds is not None:
            structlog.get_logger().info("influx.recovered", after_s=round(seconds), pending=pending)
