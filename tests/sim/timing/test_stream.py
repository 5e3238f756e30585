"""Rates of long streams."""

from __future__ import annotations

from dataclasses import replace

from sim.timing.flow import Shape
from sim.timing.reader import NOTHING
from sim.timing.stream import Streams
from skipopu.machine.config import Machine
from skipopu.machine.memory import MemoryTiming

U280 = Machine.load("u280")


def test_refreshes_of_ports_cost_where_fifos_are_short() -> None:
    """Spread over time, refreshes of lockstep ports add up unless the FIFOs hold as much as comes in one."""
    shape = Shape(1, 10_000, 16, 1, 100, 64, 20, 8, 8, 4)
    lost = {}
    for fifo in (64, 512):
        machine = replace(U280, ports=4, weight_fifo=fifo, weights_in_flight=fifo)
        apart = replace(machine, memory=replace(machine.memory, refresh_together=False))
        together, spread = (rate / slow for rate, slow in (Streams(m).rate(shape) for m in (machine, apart)))
        lost[fifo] = 1 - spread / together
    assert lost[64] > 0.05
    assert lost[512] < 0.01


def test_writes_beside_a_full_fifo_delay_no_weights() -> None:
    """Nothing is read between the FIFO's last place and the product's begin; what is written to a filling one counts."""
    machine = replace(Machine.load("mono"), memory=MemoryTiming(latency=9, turnaround=18))
    shape = Shape(1, 40, 16, 1, 40, 1 << 20, 20, 8, 8, 1)
    assert shape.beats > machine.weight_fifo
    begin = 4000
    quiet, late, early = (
        Streams(machine).flow(shape, NOTHING, 0, begin, (0, 0), beside)
        for beside in (((),), (((150, 2000), (2000, 3990)),), (((0, 4200),),))
    )
    assert late.end == quiet.end
    assert early.end > quiet.end
