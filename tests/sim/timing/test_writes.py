"""What writes take from a port's bus."""

from __future__ import annotations

from dataclasses import replace

from sim.timing.writes import Writes
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming

U280 = Machine.load("u280")


def test_writes_that_come_faster_than_the_bus_pays_for_them_add_up() -> None:
    writes = Writes(replace(U280, memory=MemoryTiming(turnaround=9)))
    writes.add([(0, 100, 2), (0, 300, 1), (0, 106, 4), (1, 90, 1)])  # in whatever order they are known
    assert writes.windows() == {0: [(100, 120), (120, 142), (300, 319)], 1: [(90, 109)]}
    assert [writes.hold(at, 0) for at in (99, 101, 142, 310)] == [0, 41, 0, 9]
    assert writes.hold(108) == 34  # of the slowest port
    left = writes.left(120, 30)
    assert left == ((2, 0, 4), (2, 180, 1))  # the second keeps its start, which waited for the first
    writes.restore(left, 1120, 62)
    assert writes.windows() == {0: [(1120, 1142), (1300, 1319)]}
    writes.forget(1319)
    assert not writes.bursts
