"""Cycles of single instructions."""

from __future__ import annotations

from dataclasses import replace

from sim.timing.costs import embed_slot
from skipopu.isa.spec import ADDRESS_UNIT
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming


def test_parts_of_a_row_wait_in_their_loaders() -> None:
    """The second port's loader holds two bursts of its part until the first one's is used; what is left is asked for after that."""
    machine = replace(Machine.load("trio"), burst=1, memory=MemoryTiming(latency=9, issue=12))
    elements = ADDRESS_UNIT // 2  # of a part
    beats = ADDRESS_UNIT // machine.beat_bytes
    one, two = (embed_slot(machine, count, 1, 4) for count in (elements, elements + 1))
    assert two >= one + (beats - 2) * machine.memory.issue
