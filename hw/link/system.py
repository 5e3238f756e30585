"""A whole machine on one chip: overlay, block RAM behind its port, host link."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Instance, Module, Signal
from amaranth.lib.wiring import connect

from hw.component import Component, given, gives
from hw.control.host import ADDRESS_BITS
from hw.emit import TOP, component_verilog, overlay_verilog
from hw.library import pins
from hw.link.link import HostLink
from hw.memory.axi import Axi4, AxiLite
from hw.memory.block_ram import BlockRam
from skipopu.errors import ConfigError
from skipopu.machine.config import Machine

SYSTEM = "system"


class System(Component):
    """The overlay of a machine with one port, its memory in block RAM, and a serial line to the host.

    Latency and throughput: the overlay's.

    Parameters:
        machine: has one port; its ``memory_bytes`` are the block RAM.
        baud: of the line at first.
    """

    def __init__(self, machine: Machine, baud: int) -> None:
        if machine.ports != 1 or not machine.memory_bytes:
            raise ConfigError(
                f"machine {machine.name}: {machine.ports} ports, memory_bytes {machine.memory_bytes}; block RAM needs one port and"
                " its size"
            )
        self.machine, self.clock_hz = machine, round(machine.clock_mhz * 1e6)
        self.divisor = round(self.clock_hz / baud)
        self.rx = given(1, "the line from the host")
        self.tx = gives(1, "the line to the host", init=1)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        m.submodules.link = link = HostLink(machine.memory_bytes, self.clock_hz, self.divisor)
        m.submodules.memory = memory = BlockRam(machine, machine.memory_bytes)
        m.d.comb += [link.rx.eq(self.rx), self.tx.eq(link.tx)]
        connect(m, link.access, memory.access)
        # A register that the own reset sets too: no logic stands between it and the overlay.
        reset = Signal(init=1)
        m.d.sync += reset.eq(link.reset)
        ports: dict[str, object] = {"i_clk": ClockSignal(), "i_rst": reset}
        ports |= pins(AxiLite(ADDRESS_BITS).flip(), link.host, "host_")
        ports |= pins(Axi4(machine.port_bits), memory.port, "port0_")
        m.submodules.overlay = Instance(TOP, **ports)
        return m


def system_verilog(machine: Machine, baud: int) -> str:
    """Verilog of :class:`System` as module ``system``, with everything below it; pins clk, rst, rx, tx."""
    return component_verilog(System(machine, baud), SYSTEM) + overlay_verilog(machine)
