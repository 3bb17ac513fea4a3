"""One batch brought home although some of its lines are refused: split until they stand alone.

InfluxDB answers a bad line by storing all, some or none of its neighbours, and it does not always
say which line it meant. So a refused batch is cut in two, and whatever is not acknowledged with
204 is sent again. A line is set aside only when it was refused on its own *and* there is a reason
to believe that the line is at fault: the text says so, or another part of the batch was accepted.
A gateway that refuses everything must not turn a whole history into dead letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from collectors.measurements import Row
from collectors.outputs.influx.answers import (
    Answer,
    Verdict,
    blames_age,
    blames_content,
    is_breakdown,
    judge,
)

BREAKDOWNS: Final = 3  # of one batch, after which its content is suspected


class Item(NamedTuple):
    """One row and its line."""

    row: Row
    line: str
    size: int  # bytes with the newline


Items = Sequence[Item]


class _Part(NamedTuple):
    items: Items
    is_tainted: bool = False  # known to hold a refused line: sending it whole would be wasted
    has_sibling: bool = False  # the older half of the same cut lies right below it


class Recipient(Protocol):
    """Who sends the parts and notes what became of each row."""

    async def send(self, items: Items) -> Answer:
        """Send these lines once, in one request."""

    async def accept(self, items: Items) -> None:
        """Every line was stored."""

    async def refuse(self, item: Item, answer: Answer) -> None:
        """This line is refused and the fault is its own."""

    async def skip_too_old(self, items: Items) -> Items:
        """Set rows aside that are known to be older than the bucket keeps; return the others."""

    def learn_age(self, item: Item) -> bool:
        """Note that this row is too old; false when that cannot be so."""

    def learn_size(self, size: int) -> None:
        """A body of this many bytes was too large."""

    def was_accepting_since_breakdown(self) -> bool:
        """Whether lines were stored after the first breakdown, in another request."""


class Delivery:
    """Splits one batch whose first answer was a refusal, or breakdown after breakdown."""

    def __init__(self, recipient: Recipient) -> None:
        self._to = recipient
        self._stack: list[_Part] = []
        self._put_off: list[_Part] = []
        self._suspects: list[tuple[Item, Answer]] = []
        self._has_proof = False
        self._oldest_accepted: int | None = None

    async def split(self, items: Items, answer: Answer) -> Answer | None:
        """Deliver what can be delivered; return the answer that ended it early, if one did."""
        is_poison_hunt = is_breakdown(answer)
        self._has_proof = is_poison_hunt and self._to.was_accepting_since_breakdown()
        stopped_by = await self._divide(_Part(items), answer)
        while stopped_by is None and (part := self._next()) is not None:
            stopped_by = await self._try(part, is_poison_hunt)
        if self._has_proof:
            for item, refusal in self._suspects:
                await self._to.refuse(item, refusal)
        elif self._suspects and stopped_by is None:
            stopped_by = self._suspects[0][1]
        return stopped_by

    def _next(self) -> _Part | None:
        if not self._stack and self._has_proof and self._put_off:
            self._stack, self._put_off = self._put_off, []
        return self._stack.pop() if self._stack else None

    async def _try(self, part: _Part, is_poison_hunt: bool) -> Answer | None:
        items = await self._to.skip_too_old(part.items)
        if not items:
            return None
        part = part._replace(items=items)
        if part.is_tainted and len(items) > 1:
            self._cut(part)
            return None
        answer = await self._to.send(items)
        if is_poison_hunt and len(items) == 1:
            answer = await self._insist(items, answer)
        verdict = judge(answer)
        if verdict is Verdict.ACCEPTED:
            await self._accepted(part)
            return None
        if verdict in (Verdict.REFUSED, Verdict.TOO_LARGE):
            return await self._divide(part, answer)
        if is_poison_hunt and is_breakdown(answer):
            return await self._divide(part, answer)
        return answer

    async def _insist(self, items: Items, answer: Answer) -> Answer:
        """Give a lone line as many tries as its batch had before it is called a poison."""
        for _ in range(BREAKDOWNS - 1):
            if not is_breakdown(answer):
                break
            answer = await self._to.send(items)
        return answer

    async def _accepted(self, part: _Part) -> None:
        await self._to.accept(part.items)
        self._has_proof = True
        oldest = part.items[0].row.timestamp_ns
        if self._oldest_accepted is None or oldest < self._oldest_accepted:
            self._oldest_accepted = oldest
        if part.has_sibling and self._stack:
            # The whole was refused and this half was not, so the fault is in the other one.
            self._stack[-1] = self._stack[-1]._replace(is_tainted=True)

    async def _divide(self, part: _Part, answer: Answer) -> Answer | None:
        if judge(answer) is Verdict.TOO_LARGE:
            self._to.learn_size(sum(item.size for item in part.items))
        if len(part.items) == 1:
            return await self._single(part.items[0], answer)
        if self._suspects and not self._has_proof:
            # One suspect is enough until something is accepted: no walk through every line.
            self._put_off.append(part._replace(has_sibling=False))
            return None
        self._cut(part, may_taint=judge(answer) is not Verdict.TOO_LARGE)
        return None

    def _cut(self, part: _Part, *, may_taint: bool = True) -> None:
        """Put both halves on the stack, the newer one on top.

        Newest first, because the newest row that is too old then settles all rows below it. The
        newer half is the smaller one: the bound of 2 log2(n) + 1 requests for one bad line
        depends on it.
        """
        middle = (len(part.items) + 1) // 2
        self._stack.append(_Part(part.items[:middle]))
        self._stack.append(_Part(part.items[middle:], has_sibling=may_taint))

    async def _single(self, item: Item, answer: Answer) -> Answer | None:
        if judge(answer) is Verdict.TOO_LARGE:
            return answer  # no line of ours is large: the limit is wrong, not the line
        if blames_age(answer) and self._may_be_too_old(item) and self._to.learn_age(item):
            await self._to.skip_too_old([item])
            return None
        if blames_content(answer):
            await self._to.refuse(item, answer)
        else:
            self._suspects.append((item, answer))
        return None

    def _may_be_too_old(self, item: Item) -> bool:
        return self._oldest_accepted is None or item.row.timestamp_ns < self._oldest_accepted
