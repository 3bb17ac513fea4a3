"""What a collector's author imports: the base class, the points it returns, its options.

A collector parses. It does not store, price, send, schedule, retry, read the clock or the
environment; the orchestrator does, with what the collector returns.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

from collectors.clock import Clock, system_clock
from collectors.merging import Merge
from collectors.points import (
    BalancePoint,
    Batch,
    Billing,
    LimitPoint,
    Point,
    Quality,
    Refusal,
    Role,
    TokenUsagePoint,
    Width,
)

__all__ = [
    "AnyCollector",
    "BalancePoint",
    "BaseCollector",
    "Batch",
    "Billing",
    "Context",
    "LimitPoint",
    "Merge",
    "Options",
    "Point",
    "Quality",
    "Refusal",
    "Role",
    "TokenUsagePoint",
    "Width",
]


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")


class Options(BaseModel):
    """Settings of one collector; a field `path` of collector `my_tool` is read from `MY_TOOL_PATH`.

    A field with a `validation_alias` is read from that name instead. `SecretStr` fields can also
    come from a file named by `<NAME>_FILE`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True
    )


@dataclass(frozen=True)
class Context:
    """What a collector is given from outside, so that it reads neither clock nor environment."""

    home: Path = field(default_factory=Path.home)
    config_home: Path | None = None  # XDG_CONFIG_HOME
    spool: Path | None = None  # where quick commands leave their input
    now: Clock = system_clock
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))  # cuts local days


O = TypeVar("O", bound=Options)  # noqa: E741 - the conventional letter for an options type
Cursor = Mapping[str, Any]


class BaseCollector(Generic[O]):
    """One source of usage, balances or limits.

    The smallest collector overrides `is_configured` and `collect`. Sources that resume override
    `read` instead and yield batches with the cursor that makes each final. Set `name`: it is what
    records are counted under for good; without one, `class AcmeToolCollector` is `acme-tool`.
    """

    name: ClassVar[str]
    options_type: ClassVar[type[Options]] = Options
    merge: ClassVar[Merge] = Merge.LATEST
    parser_version: ClassVar[int] = 1
    is_local: ClassVar[bool] = False  # reads this machine: polled every LOCAL_INTERVAL
    billing: ClassVar[Billing] = Billing.METERED  # what its records are when they do not say

    expected = 0  # files the run under way will read, where that is known; for a progress bar

    _named: ClassVar[bool] = False  # whether a class of this line chose its name itself

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "name" in cls.__dict__:
            cls._named = True
        elif not cls._named:
            words = _WORD.findall(cls.__name__.removesuffix("Collector"))
            cls.name = "-".join(words).lower() or "unnamed"

    def __init__(self, options: O | None = None, context: Context | None = None) -> None:
        self.options: O = options if options is not None else self.options_type()  # type: ignore[assignment]  # the class attribute is the default of O
        self.context = context if context is not None else Context()

    def is_configured(self) -> bool:
        """Whether there is anything to read; false is normal and never an error."""
        raise NotImplementedError

    def looked_for(self) -> Sequence[str]:
        """The places and settings `is_configured` looked at, for people."""
        return ()

    def counts_as(self) -> str:
        """The source its records are counted under; another's when it fills that one's gaps."""
        return self.name

    def billing_now(self) -> Billing:
        """How records that do not say so themselves are paid, by the settings of today."""
        return self.billing

    async def collect(self) -> Sequence[Point]:
        """Everything the source can say now; what is known already is recognised by the ledger.

        Raises:
            CollectError: the source could not be read.
        """
        raise NotImplementedError

    async def read(self, cursor: Cursor) -> AsyncIterator[Batch]:
        """Batches of what is new since `cursor`; each is stored before the next is asked for.

        Raises:
            CollectError: the source could not be read.
        """
        del cursor
        yield Batch(points=list(await self.collect()))

    def observed_at(self) -> datetime:
        """The time readings of a state (balances, limits) are stamped with."""
        return self.context.now()


AnyCollector = BaseCollector[Any]
