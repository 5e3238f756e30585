"""What refreshes cost reads of several ports."""

from __future__ import annotations

from dataclasses import replace

from sim.timing.stream import wait_of_ports
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming

U280 = Machine.load("u280")


def test_a_read_of_all_ports_waits_for_the_last_refresh() -> None:
    memory = MemoryTiming(refresh_interval=1000, refresh=100)
    together = replace(U280, ports=4, memory=memory)
    apart = replace(together, memory=replace(memory, refresh_together=False))
    many = replace(apart, ports=16)
    assert [wait_of_ports(machine, machine.ports) for machine in (together, apart, many)] == [5, 20, 68.75]
    assert [wait_of_ports(machine, 2) for machine in (together, apart, many)] == [5, 10, 5 + 62.5 * 68.75 / 1000]
