"""The overlay as a vendor's tools want it: one control port, memory ports with base addresses, their clocks and resets."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Instance, Module, ResetSignal, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.emit import TOP, component_verilog, overlay_verilog
from hw.library import Library
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

    Members: ap_clk, ap_rst_n (the overlay's clock and reset, low); with ``gearbox`` ap_clk_2, ap_rst_n_2 (the memory ports');
    s_axi_control_* (AXI4-Lite slave, :mod:`skipopu.shell`); m_axi_NN_* (AXI4 masters).
    """

    def __init__(self, machine: Machine, gearbox: bool, library: Library) -> None:
        if gearbox and max(machine.burst, machine.longest_write) > MOST_BEATS:
            raise ConfigError(
                f"machine {machine.name}: bursts of {max(machine.burst, machine.longest_write)} beats; the gearbox takes {MOST_BEATS}"
            )
        self.machine, self.gearbox, self.library = machine, gearbox, library
        self.axi = Axi4(self.width(machine, gearbox), BASE_BITS).members
        clocks = ("ap_clk", "ap_rst_n", *(("ap_clk_2", "ap_rst_n_2") if gearbox else ()))
        members = {name: In(1) for name in clocks}
        control = AxiLite(shell.ADDRESS_BITS).flip().members
        members |= {f"s_axi_control_{name}": member for name, member in control.items()}
        for p in range(machine.ports):
            members |= {f"m_axi_{p:02}_{name}": member for name, member in self.axi.items()}
        super().__init__(members)

    @staticmethod
    def width(machine: Machine, gearbox: bool) -> int:
        """Bits of a memory port."""
        return machine.port_bits // (RATIO if gearbox else 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        for name, clock, reset in (("sync", "ap_clk", "ap_rst_n"), ("memory", "ap_clk_2", "ap_rst_n_2")):
            if hasattr(self, clock):
                domain = ClockDomain(name)
                m.domains += domain
                stages = [Signal(name=f"{name}_reset_{k}", init=1, reset_less=True) for k in range(2)]
                m.d[name] += Cat(stages).eq(Cat(~getattr(self, reset), stages[0]))
                m.d.comb += [domain.clk.eq(getattr(self, clock)), domain.rst.eq(stages[-1])]
        m.submodules.registers = registers = ShellRegisters(machine.ports)
        for name, member in registers.control.members.items():
            outer, inner = getattr(self, f"s_axi_control_{name}"), getattr(registers, f"control_{name}")
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        ports: dict[str, object] = {"i_clk": ClockSignal(), "i_rst": ResetSignal() | registers.reset}
        for name, member in registers.host.members.items():
            ports[f"{'i' if member.flow is Out else 'o'}_host_{name}"] = getattr(registers, f"host_{name}")
        for p in range(machine.ports):
            inner = Axi4(machine.port_bits).create(path=(f"port{p}",))
            outer = {name: getattr(self, f"m_axi_{p:02}_{name}") for name in self.axi}
            middle = outer
            if self.gearbox:
                crossing = self.library.use(
                    "gearbox", lambda: Gearbox(machine.port_bits, BASE_BITS), f"gearbox_{p}", ("sync", "memory")
                )
                m.submodules[f"gearbox_{p}"] = crossing
                for name, member in self.axi.items():
                    narrow = getattr(crossing, f"narrow_{name}")
                    m.d.comb += outer[name].eq(narrow) if member.flow is Out else narrow.eq(outer[name])
                middle = {name: getattr(crossing, f"wide_{name}") for name in self.axi}
            # A base has no bits inside a page.
            page = getattr(registers, f"base_{p}")[PAGE_BITS:]
            for name, member in self.axi.items():
                signal = getattr(inner, name)
                ports[f"{'o' if member.flow is Out else 'i'}_port{p}_{name}"] = signal
                if name.endswith("addr"):
                    m.d.comb += middle[name].eq(Cat(signal[:PAGE_BITS], (signal[PAGE_BITS:] + page)[: BASE_BITS - PAGE_BITS]))
                else:
                    m.d.comb += middle[name].eq(signal) if member.flow is Out else signal.eq(middle[name])
        m.submodules.overlay = Instance(TOP, **ports)
        return m


def shell_verilog(machine: Machine, gearbox: bool) -> str:
    """Verilog of :class:`Shell` as module ``skipopu_shell``, with everything below it."""
    library = Library()
    parts = [component_verilog(Shell(machine, gearbox, library), SHELL)]
    parts += [component_verilog(component, name) for name, component in library.modules.items()]
    return "".join(parts) + overlay_verilog(machine)
