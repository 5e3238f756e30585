"""A machine at another clock."""

from __future__ import annotations

import dataclasses

from skipopu.machine.config import Machine
from skipopu.machine.memory import DRAMS


def at_clock(machine: Machine, clock_mhz: float) -> Machine | None:
    """The same hardware at another clock, its memory's device as fast as before, the path to it as many cycles.

    Bursts outstanding are what the description says. None where no device says how fast that is, or the description changed more of it.
    """
    device = DRAMS.get(machine.memory.device)
    if device is None:
        return None
    own, other = (device.timing(mhz, machine.beat_bytes) for mhz in (machine.clock_mhz, clock_mhz))
    kept = {"outstanding": machine.memory.outstanding}
    if dataclasses.replace(own, latency=machine.memory.latency, **kept) != machine.memory:
        return None
    memory = dataclasses.replace(other, latency=other.latency + machine.memory.latency - own.latency, **kept)
    return dataclasses.replace(machine, clock_mhz=clock_mhz, memory=memory)
