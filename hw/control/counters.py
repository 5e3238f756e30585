"""Counters of what the units do, as the host reads them."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value

from hw.arithmetic.pipeline import count_shape, delay_valid, registered
from hw.component import Component, given, gives
from hw.pe.stationary.mask import channel_count
from skipopu.isa.registers import COUNTERS, OF_MASKS
from skipopu.machine.config import Machine


class Counters(Component):
    """A 64-bit counter for each of :data:`skipopu.isa.registers.COUNTERS` that the machine has, in their order.

    Latency: 1 cycle from an amount of cycles to their count, 2 of anything else. Throughput: an amount of each per cycle.
    """

    BITS = 64

    def __init__(self, machine: Machine) -> None:
        self.names = counters_of(machine)
        most = {name: count_shape(machine.ports) for name in COUNTERS if "BEATS" in name}
        most |= dict.fromkeys(OF_MASKS, channel_count(machine))
        self.restart = given(1, "a run begins: every count is 0")
        self.running = given(1, "amounts are added")
        self.amounts = [given(most.get(name, 1), f"to add to {name}") for name in self.names]
        self.counts = [gives(self.BITS, name) for name in self.names]
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ran = delay_valid(m, self.running, 1, "ran")
        for name, amount, count in zip(self.names, self.amounts, self.counts, strict=True):
            known = name == "CYCLES"  # what records are stamped with
            shown, counts = (amount, self.running) if known else (registered(m, amount, f"amount_{name.lower()}"), ran)
            with m.If(self.restart):
                m.d.sync += count.eq(0)
            with m.Elif(counts):
                m.d.sync += count.eq(count + shown)
        return m

    def count(self, m: Module, amounts: dict[str, Value]) -> None:
        """Connects ``amounts`` by name, all of them."""
        assert tuple(amounts) == self.names
        m.d.comb += [port.eq(amount) for port, amount in zip(self.amounts, amounts.values(), strict=True)]

    def of(self, name: str) -> Signal:
        """The count of ``name``."""
        return self.counts[self.names.index(name)]


def counters_of(machine: Machine) -> tuple[str, ...]:
    """The machine's own of :data:`skipopu.isa.registers.COUNTERS`."""
    return COUNTERS if machine.masks else tuple(name for name in COUNTERS if name not in OF_MASKS)
