"""A whole machine on one chip: overlay, block RAM behind its port, host link."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal
from amaranth.lib.wiring import Component, In, Out

from hw.emit import TOP, component_verilog, overlay_verilog
from hw.link.link import HostLink
from hw.memory.axi import Axi4
from hw.memory.block_ram import BlockRam
from hw.overlay import HOST_PORTS
from skipopu.errors import ConfigError
from skipopu.machine.config import Machine

SYSTEM = "system"


class System(Component):
    """The overlay of a machine with one port, its memory in block RAM, and a serial line to the host.

    Parameters: machine (one port; its ``memory_bytes`` are the block RAM), baud (of the line at first).
    Members: rx (in), tx (out): the line.
    """

    def __init__(self, machine: Machine, baud: int) -> None:
        if machine.ports != 1 or not machine.memory_bytes:
            raise ConfigError(
                f"machine {machine.name}: {machine.ports} ports, memory_bytes {machine.memory_bytes}; block RAM needs one port and"
                " its size"
            )
        self.machine, self.clock_hz = machine, round(machine.clock_mhz * 1e6)
        self.divisor = round(self.clock_hz / baud)
        super().__init__({"rx": In(1), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        m.submodules.link = link = HostLink(machine.memory_bytes, self.clock_hz, self.divisor)
        m.submodules.memory = memory = BlockRam(machine, machine.memory_bytes)
        m.d.comb += [link.rx.eq(self.rx), self.tx.eq(link.tx)]
        for name in ("valid", "write", "address", "data"):
            m.d.comb += getattr(memory, f"access_{name}").eq(getattr(link, f"access_{name}"))
        m.d.comb += [link.access_ready.eq(memory.access_ready), link.access_result.eq(memory.access_result)]
        ports: dict[str, object] = {"i_clk": ClockSignal(), "i_rst": ResetSignal() | link.reset}
        for name in HOST_PORTS:
            outwards = link.signature.members[f"host_{name}"].flow is Out
            ports[f"{'i' if outwards else 'o'}_host_{name}"] = getattr(link, f"host_{name}")
        for name, member in Axi4(machine.port_bits).members.items():
            ports[f"{'o' if member.flow is Out else 'i'}_port0_{name}"] = getattr(memory, f"port_{name}")
        m.submodules.overlay = Instance(TOP, **ports)
        return m


def system_verilog(machine: Machine, baud: int) -> str:
    """Verilog of :class:`System` as module ``system``, with everything below it; pins clk, rst, rx, tx."""
    return component_verilog(System(machine, baud), SYSTEM) + overlay_verilog(machine)
