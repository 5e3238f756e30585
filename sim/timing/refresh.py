"""What a memory's refreshes cost those who read from several ports in lockstep."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from skipopu.machine.config import Machine


def pace(times: Sequence[int], interval: int) -> float:
    """Events per cycle in the later half of ``times``, over whole intervals of refreshes."""
    last, span = times[-1], times[-1] - times[len(times) // 2]
    if interval:
        span = max(1, span // interval) * interval
    before = bisect.bisect_right(times, last - span) - 1
    if before < 0:
        return (len(times) - 1) / (last - times[0])
    part = (last - span - times[before]) / (times[before + 1] - times[before])
    return (len(times) - 1 - before - part) / span


def wait_of_ports(machine: Machine, ports: int) -> float:
    """Mean cycles that a read of the first ``ports`` at any time waits for the last of the refreshes that it meets."""
    memory = machine.memory
    if memory.refresh_together or not memory.refresh:
        return memory.refresh_wait
    spacing = memory.refresh_interval / machine.ports
    if spacing >= memory.refresh:
        return ports * memory.refresh_wait
    between = spacing * (memory.refresh - spacing / 2) / memory.refresh_interval  # until the next port's refresh begins
    return (ports - 1) * between + (between if ports == machine.ports else memory.refresh_wait)


def phases(machine: Machine, ports: int) -> list[int | None]:
    """When refreshes of the first ``ports`` begin, which run in lockstep; None: no port has any."""
    memory = machine.memory
    if not memory.refresh:
        return [None]
    if memory.refresh_together:
        return [0]
    return [port * memory.refresh_interval // machine.ports for port in range(ports)]
