"""What refreshes cost reads of several ports."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.timing.stream import wait_of_ports
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming

U280 = Machine.load("u280")


def test_a_read_of_all_ports_waits_for_the_last_refresh() -> None:
    memory = MemoryTiming(refresh_interval=1000, refresh=80)
    together = replace(U280, ports=4, memory=memory)
    apart = replace(together, memory=replace(memory, refresh_together=False))
    many = replace(apart, ports=16)
    assert [wait_of_ports(machine, machine.ports) for machine in (together, apart, many)] == pytest.approx([3.2, 12.8, 48.75])
    assert [wait_of_ports(machine, 2) for machine in (together, apart, many)] == pytest.approx(
        [3.2, 6.4, 3.2 + 62.5 * 48.75 / 1000]
    )


def test_reads_behind_one_another_meet_a_long_refresh_once() -> None:
    memory = MemoryTiming(latency=35, refresh_interval=2000, refresh=500)
    assert memory.refresh_wait == pytest.approx(100 * 450 / 2000)
