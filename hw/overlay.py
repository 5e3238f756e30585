"""The overlay: all units, joined."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, Module, ResetSignal, Signal
from amaranth.lib.wiring import connect, flipped

from hw.component import Component, given, gives
from hw.control.host import ADDRESS_BITS
from hw.library import Library
from hw.memory.axi import AxiLite, AxiRead, AxiWrite
from hw.wiring import alignment, attention, control, counters, faults, ports, products, vector
from hw.wiring.units import HOST, Units
from skipopu.machine.config import Machine


class Overlay(Component):
    """The whole processor. One clock, synchronous reset. A start behind an error resets all but the host's registers.

    Latency: that of its programs. Throughput: a beat per port and cycle.

    Parameters:
        machine: the machine.
        library: takes the modules that occur once per port, to be converted once.
    """

    def __init__(self, machine: Machine, library: Library) -> None:
        self.clk = given(1, "the clock")
        self.rst = given(1, "the reset, two cycles at least")
        self.host = given(AxiLite(ADDRESS_BITS), "registers, see :mod:`skipopu.isa.registers`", "host_{}")
        numbers = range(machine.ports)
        self.reads = [gives(AxiRead(machine.port_bits), f"memory port {p}", f"port{p}_{{}}") for p in numbers]
        self.writes = [gives(AxiWrite(machine.port_bits), f"memory port {p}", f"port{p}_{{}}") for p in numbers]
        super().__init__()
        self.units = Units(machine, library)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        units = self.units
        # One clock for both; the stubs do not know a domain's signals.
        for domain, reset in ((HOST, self.rst), ("sync", Signal(name="run_reset", init=1))):
            m.domains += (made := ClockDomain(domain))
            vars(made).update(clk=self.clk, rst=reset)
        # A register that the host's reset sets: no logic stands between it and the whole device, and tools can copy it.
        m.d[HOST] += ResetSignal().eq(units.recovery.reset)
        units.place(m)
        for part in (control, products, attention, vector, alignment, ports, faults, counters):
            part.join(m, units)
        connect(m, flipped(self.host), units.registers.bus)
        for reader, writer, reads, writes in zip(units.readers, units.writers, self.reads, self.writes, strict=True):
            connect(m, reader.axi, flipped(reads))
            connect(m, writer.axi, flipped(writes))
        return m
