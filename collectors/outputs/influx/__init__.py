"""The InfluxDB output: what is due in the ledger, sent until it is acknowledged."""

from collectors.outputs.influx.health import State
from collectors.outputs.influx.link import InfluxTarget
from collectors.outputs.influx.sending import Outbox
from collectors.outputs.influx.writer import FlushResult, InfluxWriter

__all__ = ["FlushResult", "InfluxTarget", "InfluxWriter", "Outbox", "State"]
