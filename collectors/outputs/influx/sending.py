"""One pass over the outbox: batches built, sent, split where refused, and noted row by row."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt

from collectors.clock import Clock
from collectors.errors import LedgerError
from collectors.measurements import Row
from collectors.outputs.influx.answers import (
    Answer,
    Verdict,
    blames_age,
    is_breakdown,
    judge,
    pause_asked_for,
)
from collectors.outputs.influx.delivery import BREAKDOWNS, Delivery, Item, Items
from collectors.outputs.influx.health import Health
from collectors.outputs.influx.link import PROBE, Link, Run
from collectors.outputs.lines import LineBuilder, LineError

Kind = Literal["refused", "outside_retention"]

# A pause longer than this is not sat out inside a pass: the next pass comes after it.
LONGEST_WAIT: Final = 10.0
# No bucket keeps less, so what is refused at a younger age is refused for something else.
SHORTEST_RETENTION_NS: Final = 3_600 * 10**9
# Remembering less would turn one odd 413 into a request per line.
LEAST_BATCH_BYTES: Final = 64_000
# What is sent to see whether a failed target is back: little work for both sides.
PROBE_LINES: Final = 100
# Between two fruitless hunts for a poisonous line, while the server itself is the problem.
BREAKDOWNS_BETWEEN_HUNTS: Final = 4


class Outbox(Protocol):
    """What the writer needs of the ledger; every call runs on the ledger's thread."""

    def target(self, url: str, org: str, bucket: str) -> int:
        """The number of a target; a new one is owed everything."""

    def due(self, target: int, limit: int, now: float) -> list[Row]:
        """Dirty rows, newest first, then those whose confirmation is due."""

    def acknowledge(self, target: int, rows: Sequence[Row], now: float) -> None:
        """These revisions were stored; rows that moved on meanwhile stay dirty."""

    def refuse(
        self, target: int, rows: Sequence[Row], status: int, message: str, kind: str
    ) -> None:
        """These rows are not sent again unless they change."""

    def pending(self, target: int) -> int:
        """How many rows are dirty."""


@dataclass
class Memory:
    """What is remembered about a target from pass to pass, for the life of the process."""

    batch_lines: int
    batch_bytes: int
    too_old_ns: int | None = None  # the newest time that was refused for its age
    breakdowns: int = 0  # in a row
    breakdown_since: float = 0.0
    hunt_at: int = BREAKDOWNS

    def note(self, answer: Answer, asked_at: float) -> None:
        """Count breakdowns in a row."""
        if not is_breakdown(answer):
            self.breakdowns, self.hunt_at = 0, BREAKDOWNS
            return
        if not self.breakdowns:
            self.breakdown_since = asked_at
        self.breakdowns += 1


class Pass:
    """Sends everything that is due; also the recipient of deliveries that have to split."""

    def __init__(
        self,
        outbox: Outbox,
        number: int,
        link: Link,
        health: Health,
        memory: Memory,
        *,
        run: Run,
        lines: LineBuilder,
        clock: Clock,
        rng: random.Random,
        now: float,
    ) -> None:
        self.sent = 0
        self.refused = 0
        self.outside_retention = 0
        self._outbox = outbox
        self._number = number
        self._link = link
        self._health = health
        self._memory = memory
        self._run = run
        self._lines = lines
        self._clock = clock
        self._rng = rng
        self._now = now
        self._started = asyncio.get_running_loop().time()
        self._last_refusal = ""

    def moment(self) -> float:
        """The wall clock as far as this pass is concerned: its start plus what has gone by."""
        return self._now + asyncio.get_running_loop().time() - self._started

    async def send_all(self) -> Answer | None:
        """Send until nothing is due; return the answer that ended it early, if one did.

        Raises:
            LedgerError: the outbox offers the same rows for ever.
        """
        previous: list[tuple[int, int, int]] = []
        repeats = 0
        while rows := await self._due():
            keys = [(row.series, row.start, row.revision) for row in rows]
            repeats = repeats + 1 if keys == previous else 0
            previous = keys
            if repeats > 1:  # once is a confirmation without a settle time
                raise LedgerError(
                    "the ledger keeps offering rows that were settled", "please report this"
                )
            for items in await self._batches(rows):
                stopped_by = await self._deliver(items)
                if stopped_by is not None:
                    return stopped_by
        return await self._probe()

    async def _due(self) -> list[Row]:
        limit = self._memory.batch_lines
        if self._is_probing():
            limit = min(limit, PROBE_LINES)
        rows: list[Row] = await self._run(self._outbox.due, self._number, limit, self.moment())
        return rows

    async def _probe(self) -> Answer | None:
        """With nothing to send, a target that had failed is asked whether it is back."""
        if not self._is_probing():
            return None
        answer = await self._link.post(PROBE)
        return None if judge(answer) is Verdict.ACCEPTED else answer

    def _is_probing(self) -> bool:
        """Whether nothing was stored yet since the target last failed."""
        return self._health.failures > 0 and self._link.accepted_at <= self._health.failed_at

    async def _batches(self, rows: Sequence[Row]) -> list[list[Item]]:
        """Rows as bodies of limited size: the newest body first, each sorted by time.

        Rows that lie close together in time touch few of the server's shards.
        """
        batches: list[list[Item]] = []
        size = 0
        for item in await self._items(sorted(rows, key=_timestamp, reverse=True)):
            if not batches or size + item.size > self._memory.batch_bytes:
                batches.append([])
                size = 0
            batches[-1].append(item)
            size += item.size
        for batch in batches:
            batch.reverse()
        return batches

    async def _items(self, rows: Sequence[Row]) -> list[Item]:
        items = []
        for row in rows:
            try:
                line = self._lines.line(row)
            except LineError as error:
                await self._set_aside([row], 0, str(error), "refused")
                continue
            size = len(line) if line.isascii() else len(line.encode())
            items.append(Item(row, line, size + 1))
        return items

    async def _deliver(self, items: Items) -> Answer | None:
        items = await self.skip_too_old(items)
        if not items:
            return None
        answer = await self._send_patiently(items)
        verdict = judge(answer)
        if verdict is Verdict.ACCEPTED:
            await self.accept(items)
            return None
        if verdict in (Verdict.REFUSED, Verdict.TOO_LARGE):
            return await Delivery(self).split(items, answer)
        if await self._suspects_content(answer):
            self._memory.hunt_at = self._memory.breakdowns + BREAKDOWNS_BETWEEN_HUNTS
            return await Delivery(self).split(items, answer)
        return answer

    async def _send_patiently(self, items: Items) -> Answer:
        """The first request for a batch; short troubles are sat out, but a probe is one request."""
        retrying = AsyncRetrying(
            sleep=asyncio.sleep,  # in the loop's time
            stop=stop_after_attempt(1 if self._is_probing() else BREAKDOWNS),
            wait=self._pause,
            retry=retry_if_result(self._is_worth_another_try),
            retry_error_callback=_last_answer,
        )
        answer: Answer = await retrying(self._send_counted, items)
        return answer

    async def _send_counted(self, items: Items) -> Answer:
        asked_at = asyncio.get_running_loop().time()
        answer = await self.send(items)
        self._memory.note(answer, asked_at)
        return answer

    def _is_worth_another_try(self, answer: Answer) -> bool:
        return (
            judge(answer) is Verdict.LATER
            and not answer.is_slow
            and pause_asked_for(answer, self._clock()) <= LONGEST_WAIT
        )

    def _pause(self, state: RetryCallState) -> float:
        asked = pause_asked_for(_last_answer(state), self._clock())
        return max(asked, self._rng.uniform(0, 2.0**state.attempt_number))

    async def _suspects_content(self, answer: Answer) -> bool:
        """Whether breakdown after breakdown is more likely a line than the server."""
        is_due = self._memory.breakdowns >= self._memory.hunt_at
        return is_breakdown(answer) and is_due and await self._link.is_alive()

    async def _set_aside(self, rows: Sequence[Row], status: int, text: str, kind: Kind) -> None:
        await self._run(self._outbox.refuse, self._number, rows, status, text, kind)
        if kind == "refused":
            self.refused += len(rows)
            self._last_refusal = f"{status} {text}" if status else text
        else:
            self.outside_retention += len(rows)

    def log_set_aside(self) -> None:
        """At most two log lines about what this pass set aside."""
        log = structlog.get_logger()
        if self.refused:
            log.warning(
                "influx.refused", reason="refused", rows=self.refused, last=self._last_refusal
            )
        if self.outside_retention:
            log.info("influx.refused", reason="outside_retention", rows=self.outside_retention)

    # What a delivery asks of its recipient.

    async def send(self, items: Items) -> Answer:
        """Send these lines in one request."""
        return await self._link.post("\n".join(item.line for item in items))

    async def accept(self, items: Items) -> None:
        """Acknowledge what was stored."""
        rows = [item.row for item in items]
        await self._run(self._outbox.acknowledge, self._number, rows, self.moment())
        self.sent += len(rows)

    async def refuse(self, item: Item, answer: Answer) -> None:
        """Set one line aside."""
        kind: Kind = "outside_retention" if blames_age(answer) else "refused"
        await self._set_aside([item.row], answer.status, answer.text, kind)

    async def skip_too_old(self, items: Items) -> Items:
        """Set aside what is older than the bucket is known to keep."""
        limit = self._memory.too_old_ns
        if limit is None or items[0].row.timestamp_ns > limit:
            return items
        old = [item.row for item in items if item.row.timestamp_ns <= limit]
        await self._set_aside(old, 422, "older than the bucket keeps", "outside_retention")
        return [item for item in items if item.row.timestamp_ns > limit]

    def learn_age(self, item: Item) -> bool:
        """Remember the newest time that was refused for its age."""
        timestamp = item.row.timestamp_ns
        if timestamp > self.moment() * 10**9 - SHORTEST_RETENTION_NS:
            return False
        self._memory.too_old_ns = max(timestamp, self._memory.too_old_ns or timestamp)
        return True

    def learn_size(self, size: int) -> None:
        """Send at most half of what was too large, for the life of the process."""
        self._memory.batch_bytes = max(LEAST_BATCH_BYTES, min(self._memory.batch_bytes, size // 2))

    def was_accepting_since_breakdown(self) -> bool:
        """Whether anything was stored since the batch at hand first failed."""
        return self._link.accepted_at > self._memory.breakdown_since


def _last_answer(state: RetryCallState) -> Answer:
    assert state.outcome is not None
    answer: Answer = state.outcome.result()
    return answer


def _timestamp(row: Row) -> int:
    return row.timestamp_ns
