"""Where the ledger's content goes: InfluxDB and whatever else reads it."""
