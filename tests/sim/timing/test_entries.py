"""The pace of KV entries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.timing.entries import entry_pace
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming


def test_first_entries_come_together() -> None:
    far = replace(Machine.load("mono"), kv_fifo=64, memory=MemoryTiming(latency=90))
    paced = entry_pace(far, 1, 8, 4, 1, 1, 5)
    assert paced.period > 8
    assert paced.until(4) - paced.until(1) == 3 * 5  # as fast as they are used up
    assert paced.until(400) - paced.until(300) == pytest.approx(100 * paced.period)
