"""AXI4-Lite registers: what the host writes before a run and reads during and after it."""

from __future__ import annotations

from amaranth.hdl import Module, ResetSignal, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.memory.axi import AxiLite
from skipopu.isa.registers import HOST, HOST_REGISTERS, ISA_VERSION, MAGIC, WIDE
from skipopu.machine.config import Machine
from skipopu.numerics.profile import fingerprint

ADDRESS_BITS = 9
RESET_CYCLES = 16  # of the overlay, when a host asks what is around it for a reset
WRITABLE = tuple(r.name for r in HOST_REGISTERS if r.access == "rw" and r.name != "CONTROL")
UPPER = tuple(f"{name}_HIGH" for name in WIDE)
READABLE = tuple(
    r.name for r in HOST_REGISTERS if r.access == "r" and r.name not in ("MAGIC", "VERSION", "MACHINE", "NUMERICS", *UPPER)
)


class HostRegisters(Component):
    """The register file of :mod:`skipopu.isa.registers`; unknown addresses read zero and ignore writes.

    Nothing is taken in reset, where it would never be answered. A read of a 64-bit counter's lower half keeps its upper half.

    Members: the AXI4-Lite slave; one output per writable register, one input per readable one, by lower-case name; start,
    clear (out, one cycle: CONTROL was written).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        members = {
            name: (In if member.flow is Out else Out)(member.shape) for name, member in AxiLite(ADDRESS_BITS).members.items()
        }
        super().__init__(
            {
                **members,
                **{name.lower(): Out(32) for name in WRITABLE},
                **{name.lower(): In(64 if name in WIDE else 32) for name in READABLE},
                "start": Out(1),
                "clear": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Writes: address and data are taken together.
        working = ~ResetSignal("sync", allow_reset_less=True)
        write = self.awvalid & self.wvalid & (~self.bvalid | self.bready) & working
        m.d.comb += [self.awready.eq(write), self.wready.eq(write)]
        with m.If(write):
            m.d.sync += self.bvalid.eq(1)
            with m.Switch(self.awaddr):
                for name in WRITABLE:
                    with m.Case(HOST[name].address):
                        register = getattr(self, name.lower())
                        for byte in range(4):
                            with m.If(self.wstrb[byte]):
                                m.d.sync += register[8 * byte : 8 * byte + 8].eq(self.wdata[8 * byte : 8 * byte + 8])
                with m.Case(HOST["CONTROL"].address):
                    m.d.comb += [self.start.eq(self.wdata[0] & self.wstrb[0]), self.clear.eq(self.wdata[1] & self.wstrb[0])]
        with m.Elif(self.bready):
            m.d.sync += self.bvalid.eq(0)
        # Reads
        read = self.arvalid & (~self.rvalid | self.rready) & working
        m.d.comb += self.arready.eq(read)
        constants = {
            "MAGIC": MAGIC,
            "VERSION": ISA_VERSION,
            "MACHINE": int(self.machine.fingerprint[-8:], 16),
            "NUMERICS": int(fingerprint(self.machine.numerics[0])[-8:], 16),
        }
        value, upper, kept = Signal(32), Signal(32), Signal(32)
        with m.Switch(self.araddr):
            for name, constant in constants.items():
                with m.Case(HOST[name].address):
                    m.d.comb += value.eq(constant)
            for name in (*WRITABLE, *READABLE):
                with m.Case(HOST[name].address):
                    m.d.comb += [value.eq(getattr(self, name.lower())), upper.eq(getattr(self, name.lower()) >> 32)]
            with m.Case(*(HOST[name].address for name in UPPER)):
                m.d.comb += [value.eq(kept), upper.eq(kept)]
        with m.If(read):
            m.d.sync += [self.rvalid.eq(1), self.rdata.eq(value), kept.eq(upper)]
        with m.Elif(self.rready):
            m.d.sync += self.rvalid.eq(0)
        m.d.comb += [self.bresp.eq(0), self.rresp.eq(0)]
        return m
