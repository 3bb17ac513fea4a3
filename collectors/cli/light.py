"""The few settings a reading command needs, found without pydantic: ledger, zone, clock.

`Program` in composition.py is the whole; this is the part that can start in a few milliseconds.
Both ask the same functions, so they cannot disagree.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path

from collectors.cli.console import note, visible
from collectors.clock import Calendar, Clock, find_zone, system_clock
from collectors.errors import LedgerError
from collectors.layers import Layers, read_layers
from collectors.ledger import glance
from collectors.ledger.files import WriterLock, open_reader
from collectors.places import config_dir, ledger_path


class Light:
    """Where the ledger is and which days it is cut into."""

    def __init__(self, environ: Mapping[str, str], clock: Clock = system_clock) -> None:
        self.environ = environ
        self.clock = clock

    @cached_property
    def layers(self) -> Layers:
        """Settings as written."""
        return read_layers(self.environ, config_dir=config_dir(self.environ))

    @cached_property
    def ledger(self) -> Path:
        """The ledger's path, whether or not it is there."""
        return ledger_path(self.layers)

    @cached_property
    def calendar(self) -> Calendar:
        """Days in the user's zone."""
        zone = self.layers.find("TZ")
        return Calendar(find_zone(str(zone.text) if zone else "", self.environ))

    @cached_property
    def now(self) -> datetime:
        """One moment for the whole command, so that its parts agree on what today is."""
        return self.clock()

    @property
    def today(self) -> date:
        """The local day of `now`."""
        return self.calendar.day_of(int(self.now.timestamp()))

    def open(self) -> sqlite3.Connection:
        """A read-only connection.

        Raises:
            LedgerError: there is no ledger, or it cannot be read.
        """
        return open_reader(self.ledger)

    def refresh(self) -> None:
        """Take in what is new when nobody else does; else say who does, and how old the data is."""
        lock = WriterLock(self.ledger)
        if not lock.is_held():
            from collectors.cli.running import collect_quietly
            from collectors.composition import Program

            try:
                problem = collect_quietly(Program(self.environ, clock=self.clock))
            except LedgerError as error:
                if not self.ledger.exists():
                    raise
                problem = f"nothing new was taken in: {error}"
            if problem:
                note(f"tokendash: {visible(problem)}")
            if not lock.is_held():
                return
        holder = lock.holder()
        who = f"process {holder}" if holder else "another process"
        if self.ledger.exists():
            db = self.open()
            newest = glance.newest(db)
            db.close()
            age = "nothing yet" if newest is None else ago(self.now.timestamp() - newest)
            note(
                f"tokendash: {who} writes this ledger and takes in what is new; newest data: {age}"
            )


def iso(epoch_seconds: float | None, timespec: str = "seconds") -> str | None:
    """A moment in UTC as programs read it."""
    if epoch_seconds is None:
        return None
    moment = datetime.fromtimestamp(epoch_seconds, UTC)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def ago(seconds: float, *, exact: bool = False) -> str:
    """How long ago; data lies in buckets of five minutes, only other moments are `exact`."""
    return "just now" if seconds < (5 if exact else 300) else f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """A length of time in its largest unit."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size or (size == 86_400 and seconds >= size):
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
