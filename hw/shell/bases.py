"""The control port of a vendor shell: the overlay's registers, and what the shell adds."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib.wiring import Component, Out

from hw.control.host import ADDRESS_BITS, RESET_CYCLES
from hw.memory.axi import AxiLite
from skipopu import shell

BASE_BITS = 64


class ShellRegisters(Component):
    """Splits one AXI4-Lite port: addresses below :data:`skipopu.shell.RESET` are the overlay's, the others the shell's own.

    One access at a time, none while the overlay is in reset. Members: control_* (AXI4-Lite slave), host_* (AXI4-Lite master to the overlay), base_k (out: bytes, of
    port k), reset (out: of the overlay, :data:`RESET_CYCLES` long).
    """

    def __init__(self, ports: int) -> None:
        self.ports = ports
        self.control = AxiLite(shell.ADDRESS_BITS).flip()
        self.host = AxiLite(ADDRESS_BITS)
        super().__init__(
            {
                **{f"control_{name}": member for name, member in self.control.members.items()},
                **{f"host_{name}": member for name, member in self.host.members.items()},
                **{f"base_{p}": Out(BASE_BITS) for p in range(ports)},
                "reset": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bases = [getattr(self, f"base_{p}") for p in range(self.ports)]
        resetting = Signal(range(RESET_CYCLES + 1))
        m.d.comb += self.reset.eq(resetting != 0)
        with m.If(resetting != 0):
            m.d.sync += resetting.eq(resetting - 1)
        for name, member in self.host.members.items():
            control, host = getattr(self, f"control_{name}"), getattr(self, f"host_{name}")
            if member.flow is Out and not name.endswith(("valid", "ready")):
                m.d.comb += host.eq(control)
        value = Signal(32)
        with m.Switch(self.control_araddr):
            for p, base in enumerate(bases):
                for half in range(2):
                    with m.Case(shell.base_register(p) + 4 * half):
                        m.d.comb += value.eq(base.word_select(half, 32))
        own_read, own_write = self.control_araddr >= shell.RESET, self.control_awaddr >= shell.RESET
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.control_awvalid & self.control_wvalid & ~self.reset):
                    with m.If(own_write):
                        m.d.comb += [self.control_awready.eq(1), self.control_wready.eq(1)]
                        m.d.sync += self.control_bvalid.eq(1)
                        with m.Switch(self.control_awaddr):
                            with m.Case(shell.RESET):
                                m.d.sync += resetting.eq(RESET_CYCLES)
                            for p, base in enumerate(bases):
                                for half in range(2):
                                    with m.Case(shell.base_register(p) + 4 * half):
                                        word = base.word_select(half, 32)
                                        bits = Cat(self.control_wstrb[k].replicate(8) for k in range(4))
                                        m.d.sync += word.eq((self.control_wdata & bits) | (word & ~bits))
                        m.next = "WRITTEN"
                    with m.Else():
                        m.d.comb += [
                            self.host_awvalid.eq(1),
                            self.host_wvalid.eq(1),
                            self.control_awready.eq(self.host_awready),
                            self.control_wready.eq(self.host_wready),
                        ]
                        with m.If(self.host_awready & self.host_wready):
                            m.next = "WRITING"
                with m.Elif(self.control_arvalid & ~self.reset):
                    m.d.comb += [
                        self.host_arvalid.eq(~own_read),
                        self.control_arready.eq(own_read | self.host_arready),
                    ]
                    with m.If(own_read):
                        m.d.sync += [self.control_rvalid.eq(1), self.control_rdata.eq(value)]
                        m.next = "READ"
                    with m.Elif(self.host_arready):
                        m.next = "READING"
            with m.State("WRITING"):
                m.d.comb += self.host_bready.eq(1)
                with m.If(self.host_bvalid):
                    m.d.sync += self.control_bvalid.eq(1)
                    m.next = "WRITTEN"
            with m.State("WRITTEN"):
                with m.If(self.control_bready):
                    m.d.sync += self.control_bvalid.eq(0)
                    m.next = "IDLE"
            with m.State("READING"):
                m.d.comb += self.host_rready.eq(1)
                with m.If(self.host_rvalid):
                    m.d.sync += [self.control_rvalid.eq(1), self.control_rdata.eq(self.host_rdata)]
                    m.next = "READ"
            with m.State("READ"):
                with m.If(self.control_rready):
                    m.d.sync += self.control_rvalid.eq(0)
                    m.next = "IDLE"
        m.d.comb += [self.control_bresp.eq(0), self.control_rresp.eq(0)]
        return m
