"""The overlay as a vendor's tools want it: one control port, memory ports with base addresses, their clocks and resets."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Instance, Module, ResetSignal, Signal
from amaranth.lib.wiring import Out, connect, flipped

from hw.component import Component, given, gives
from hw.control.host import ADDRESS_BITS
from hw.emit import TOP, component_verilog, overlay_verilog
from hw.library import Library, pins
from hw.memory.axi import Axi4, AxiLite
from hw.shell.bases import BASE_BITS, ShellRegisters
from hw.shell.gearbox import MOST_BEATS, RATIO, Gearbox
from skipopu import shell
from skipopu.errors import ConfigError
from skipopu.machine.config import Machine
from skipopu.shell import MODULE as SHELL

PAGE_BITS = 12  # bases are multiples of a page, so that bursts stay inside pages


class Shell(Component):
    """The overlay of ``machine`` with base addresses and, with ``gearbox``, memory ports of half the width at their own clock.

    Latency and throughput: the overlay's; see :class:`hw.shell.gearbox.Gearbox` and :class:`hw.shell.bases.ShellRegisters`.

    Parameters:
        machine: the machine.
        gearbox: memory ports of half the width at their own clock.
        library: holds the modules that repeat.
    """

    def __init__(self, machine: Machine, gearbox: bool, library: Library) -> None:
        if gearbox and max(machine.burst, machine.longest_write) > MOST_BEATS:
            raise ConfigError(
                f"machine {machine.name}: bursts of {max(machine.burst, machine.longest_write)} beats; the gearbox takes {MOST_BEATS}"
            )
        self.machine, self.gearbox, self.library = machine, gearbox, library
        self.ap_clk = given(1, "the overlay's clock")
        self.ap_rst_n = given(1, "its reset, low")
        if gearbox:
            self.ap_clk_2 = given(1, "the memory ports' clock")
            self.ap_rst_n_2 = given(1, "its reset, low")
        self.control = given(AxiLite(shell.ADDRESS_BITS), "AXI4-Lite slave, see :mod:`skipopu.shell`", "s_axi_control_{}")
        axi = Axi4(self.width(machine, gearbox), BASE_BITS)
        self.axi = [gives(axi, f"AXI4 master of port {p}", f"m_axi_{p:02}_{{}}") for p in range(machine.ports)]
        super().__init__()

    @staticmethod
    def width(machine: Machine, gearbox: bool) -> int:
        """Bits of a memory port."""
        return machine.port_bits // (RATIO if gearbox else 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        clocks = {"sync": (self.ap_clk, self.ap_rst_n)}
        if self.gearbox:
            clocks["memory"] = (self.ap_clk_2, self.ap_rst_n_2)
        for name, (clock, reset) in clocks.items():
            m.domains += ClockDomain(name)
            stages = [Signal(name=f"{name}_reset_{k}", init=1, reset_less=True) for k in range(2)]
            m.d[name] += Cat(stages).eq(Cat(~reset, stages[0]))
            m.d.comb += [ClockSignal(name).eq(clock), ResetSignal(name).eq(stages[-1])]
        m.submodules.registers = registers = ShellRegisters(machine.ports)
        connect(m, flipped(self.control), registers.control)
        ports: dict[str, object] = {"i_clk": ClockSignal(), "i_rst": registers.reset}
        ports |= pins(AxiLite(ADDRESS_BITS).flip(), registers.host, "host_")
        overlay_port = Axi4(machine.port_bits)
        for p, outer in enumerate(self.axi):
            inner = overlay_port.create(path=(f"port{p}",))
            ports |= pins(overlay_port, inner, f"port{p}_")
            middle = outer
            if self.gearbox:
                crossing = self.library.use(
                    "gearbox", lambda: Gearbox(machine.port_bits, BASE_BITS), f"gearbox_{p}", ("sync", "memory")
                )
                m.submodules[f"gearbox_{p}"] = crossing
                connect(m, flipped(outer), crossing.narrow)
                middle = crossing.wide
            # A base has no bits inside a page.
            page = registers.base[p][PAGE_BITS:]
            for name, member in overlay_port.members.items():
                signal, other = getattr(inner, name), getattr(middle, name)
                if name.endswith("addr"):
                    m.d.comb += other.eq(Cat(signal[:PAGE_BITS], (signal[PAGE_BITS:] + page)[: BASE_BITS - PAGE_BITS]))
                else:
                    m.d.comb += other.eq(signal) if member.flow is Out else signal.eq(other)
        m.submodules.overlay = Instance(TOP, **ports)
        return m


def shell_verilog(machine: Machine, gearbox: bool) -> str:
    """Verilog of :class:`Shell` as module ``skipopu_shell``, with everything below it."""
    library = Library()
    parts = [component_verilog(Shell(machine, gearbox, library), SHELL)]
    parts += [component_verilog(component, name) for name, component in library.modules.items()]
    return "".join(parts) + overlay_verilog(machine)
