"""What a plan that is stated later changes: use whose plan was not known yet."""

from __future__ import annotations

from collectors.ledger import records as r
from collectors.ledger.schema import RECORD_COLUMNS
from collectors.ledger.store import Ledger
from collectors.points import Billing

_MONEY = {Billing.METERED: "cost_nano", Billing.SUBSCRIPTION: "api_equivalent_nano"}
_COLUMNS = ",".join(f"record.{name}" for name in RECORD_COLUMNS)


def settle_unknown(ledger: Ledger, source: str, billing: Billing) -> int:
    """Count use of a source whose plan was unknown under the plan that is known now.

    What was counted under a known plan stays as it is: a change of plan is dated by the use itself.
    Returns the number of records; all of them change in one transaction, or none.
    """
    if billing is Billing.UNKNOWN:
        return 0
    unknown, known = r.BILLING_CODES[Billing.UNKNOWN], r.BILLING_CODES[billing]
    db = ledger.db
    with ledger.transaction():
        rows = db.execute(
            f"SELECT {_COLUMNS}, record.id, record.row_check FROM record"
            " JOIN series ON series.id=record.series WHERE series.source=? AND record.billing=?",
            (source, unknown),
        ).fetchall()
        if not rows:
            return 0
        width = len(RECORD_COLUMNS)
        updates: list[tuple[int, int, int]] = []
        difference = 0
        for row in rows:
            changed = list(row[:width])
            changed[r.BILLING] = known
            check = r.row_check(tuple(changed), ledger.seed)
            difference += check - row[width + 1]
            updates.append((known, check, row[width]))
        db.executemany("UPDATE record SET billing=?, row_check=? WHERE id=?", updates)
        db.execute("UPDATE book SET checks=checks+? WHERE source=?", (difference, source))
        places = {(row[r.BUCKET], row[r.SERIES]) for row in rows}
        column = _MONEY[billing]
        db.executemany(
            f"UPDATE bucket SET {column}={column}+plan_unknown_nano, plan_unknown_nano=0"
            " WHERE start=? AND series=?",
            list(places),
        )
        db.execute(
            "INSERT INTO setting_change VALUES(?,?,?,?)",
            (ledger.clock(), f"billing of {source}", Billing.UNKNOWN, billing),
        )
        ledger.outbox.mark(places)
    return len(rows)
