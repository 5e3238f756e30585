"""Which way a machine's ports stream a matrix."""

from __future__ import annotations

from skipopu.channel_stream import ChannelStream
from skipopu.layout import WeightStream
from skipopu.machine.config import Machine
from skipopu.numerics.formats import INT4, Format


def stream_of(machine: Machine, rows: int, groups: int, group: int, format: Format = INT4) -> WeightStream | ChannelStream:
    """The stream of ``rows`` x ``groups`` groups of ``group`` weights."""
    kind = ChannelStream if machine.stationary else WeightStream
    return kind(rows, groups, group, machine.ports, machine.weight_lanes, format)
