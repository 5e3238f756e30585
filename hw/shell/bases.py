"""The control port of a vendor shell: the overlay's registers, and what the shell adds."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal

from hw.component import Component, given, gives
from hw.control.host import ADDRESS_BITS, RESET_CYCLES
from hw.memory.axi import AxiLite
from skipopu import shell

BASE_BITS = 64


class ShellRegisters(Component):
    """Splits one AXI4-Lite port: addresses below :data:`skipopu.shell.RESET` are the overlay's, the others the shell's own.

    Latency: an access passes in the cycle in which both sides are ready, its answer a cycle after the overlay's; the shell's own
    are answered a cycle later. Throughput: one access at a time, none while the overlay is in reset.

    Parameters:
        ports: memory ports with a base address.
    """

    def __init__(self, ports: int) -> None:
        self.control = given(AxiLite(shell.ADDRESS_BITS), "AXI4-Lite slave", "control_{}")
        self.host = gives(AxiLite(ADDRESS_BITS), "AXI4-Lite master to the overlay", "host_{}")
        self.base = [gives(BASE_BITS, f"bytes, where port {p}'s memory starts") for p in range(ports)]
        self.reset = gives(1, "of the overlay, :data:`hw.control.host.RESET_CYCLES` long, behind the own one too", init=1)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bases, control, host = self.base, self.control, self.host
        # A register that the own reset sets too: no logic stands between it and the overlay.
        resetting = Signal(range(RESET_CYCLES), init=RESET_CYCLES - 1)  # cycles left behind this one
        m.d.sync += [resetting.eq(resetting - (resetting != 0)), self.reset.eq(resetting != 0)]
        m.d.comb += [
            host.awaddr.eq(control.awaddr),
            host.wdata.eq(control.wdata),
            host.wstrb.eq(control.wstrb),
            host.araddr.eq(control.araddr),
        ]
        value = Signal(32)
        with m.Switch(control.araddr):
            for p, base in enumerate(bases):
                for half in range(2):
                    with m.Case(shell.base_register(p) + 4 * half):
                        m.d.comb += value.eq(base.word_select(half, 32))
        own_read, own_write = control.araddr >= shell.RESET, control.awaddr >= shell.RESET
        with m.FSM():
            with m.State("IDLE"):
                with m.If(control.awvalid & control.wvalid & ~self.reset):
                    with m.If(own_write):
                        m.d.comb += [control.awready.eq(1), control.wready.eq(1)]
                        m.d.sync += control.bvalid.eq(1)
                        with m.Switch(control.awaddr):
                            with m.Case(shell.RESET):
                                m.d.sync += [resetting.eq(RESET_CYCLES - 1), self.reset.eq(1)]
                            for p, base in enumerate(bases):
                                for half in range(2):
                                    with m.Case(shell.base_register(p) + 4 * half):
                                        word = base.word_select(half, 32)
                                        bits = Cat(control.wstrb[k].replicate(8) for k in range(4))
                                        m.d.sync += word.eq((control.wdata & bits) | (word & ~bits))
                        m.next = "WRITTEN"
                    with m.Else():
                        m.d.comb += [
                            host.awvalid.eq(1),
                            host.wvalid.eq(1),
                            control.awready.eq(host.awready),
                            control.wready.eq(host.wready),
                        ]
                        with m.If(host.awready & host.wready):
                            m.next = "WRITING"
                with m.Elif(control.arvalid & ~self.reset):
                    m.d.comb += [
                        host.arvalid.eq(~own_read),
                        control.arready.eq(own_read | host.arready),
                    ]
                    with m.If(own_read):
                        m.d.sync += [control.rvalid.eq(1), control.rdata.eq(value)]
                        m.next = "READ"
                    with m.Elif(host.arready):
                        m.next = "READING"
                    with m.Else():
                        m.next = "ASKING"
            with m.State("ASKING"):  # what was offered stands until it is taken
                m.d.comb += [host.arvalid.eq(1), control.arready.eq(host.arready)]
                with m.If(host.arready):
                    m.next = "READING"
            with m.State("WRITING"):
                m.d.comb += host.bready.eq(1)
                with m.If(host.bvalid):
                    m.d.sync += control.bvalid.eq(1)
                    m.next = "WRITTEN"
            with m.State("WRITTEN"):
                with m.If(control.bready):
                    m.d.sync += control.bvalid.eq(0)
                    m.next = "IDLE"
            with m.State("READING"):
                m.d.comb += host.rready.eq(1)
                with m.If(host.rvalid):
                    m.d.sync += [control.rvalid.eq(1), control.rdata.eq(host.rdata)]
                    m.next = "READ"
            with m.State("READ"):
                with m.If(control.rready):
                    m.d.sync += control.rvalid.eq(0)
                    m.next = "IDLE"
        m.d.comb += [control.bresp.eq(0), control.rresp.eq(0)]
        return m
