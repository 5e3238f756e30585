"""AXI4-Lite registers: what the host writes before a run and reads during and after it."""

from __future__ import annotations

import operator

from amaranth.hdl import Cat, Const, Module, Mux, ResetSignal, Signal, Value

from hw.arithmetic.pipeline import registered, tree
from hw.component import Bundle, Component, given, gives
from hw.control.counters import counters_of
from hw.memory.axi import AxiLite
from skipopu.isa.registers import (
    CONTROL_ABORT,
    CONTROL_CLEAR,
    CONTROL_START,
    COUNTERS,
    HOST,
    HOST_REGISTERS,
    ISA_VERSION,
    MAGIC,
    WIDE,
    identity,
)
from skipopu.machine.config import Machine

ADDRESS_BITS = 9
RESET_CYCLES = 16  # of the overlay, when a host asks what is around it for a reset; of all but its registers, before a start behind an error
WRITABLE = tuple(r.name for r in HOST_REGISTERS if r.access == "rw" and r.name != "CONTROL")
UPPER = tuple(f"{name}_HIGH" for name in WIDE)
READABLE = tuple(
    r.name for r in HOST_REGISTERS if r.access == "r" and r.name not in ("MAGIC", "VERSION", "MACHINE", "NUMERICS", *UPPER)
)


class RunRequest(Bundle):
    """What a run is to do, and when."""

    def __init__(self) -> None:
        self.start = gives(1, "start, for a cycle")
        self.clear = gives(1, "clear the status, for a cycle")
        self.abort = gives(1, "abort the run, for a cycle")
        self.program = gives(32, HOST["PROGRAM"].meaning)
        self.program_length = gives(32, HOST["PROGRAM_LENGTH"].meaning)
        self.prompt_length = gives(32, HOST["PROMPT_LENGTH"].meaning)
        self.max_new = gives(32, HOST["MAX_NEW"].meaning)
        self.first = gives(32, HOST["FIRST"].meaning)
        self.known_length = gives(32, HOST["KNOWN_LENGTH"].meaning)
        self.predict_from = gives(32, HOST["PREDICT_FROM"].meaning)
        self.predicted = gives(32, HOST["PREDICTED"].meaning)
        super().__init__()


class RunState(Bundle):
    """How far a run is, and how it ended."""

    def __init__(self) -> None:
        self.status = gives(32, HOST["STATUS"].meaning)
        self.error = gives(32, HOST["ERROR"].meaning)
        self.error_pc = gives(32, HOST["ERROR_PC"].meaning)
        self.generated = gives(32, HOST["GENERATED"].meaning)
        self.position = gives(32, HOST["POSITION"].meaning)
        self.retired = gives(32, HOST["RETIRED"].meaning)
        self.executed_attention = gives(64, HOST["EXECUTED_ATTENTION"].meaning)
        self.executed_ffn = gives(64, HOST["EXECUTED_FFN"].meaning)
        super().__init__()


class HostRegisters(Component):
    """The register file of :mod:`skipopu.isa.registers`; unknown addresses read zero and ignore writes.

    Nothing is taken in reset, where it would never be answered, nor while ``hold``. A read of a 64-bit counter's lower half keeps its upper half.

    Latency: a write is answered 1 cycle after address and data are there, a read 2 cycles after its address; ``start``, ``clear`` and
    ``abort`` come with the answer, as what was written. Throughput: a write per cycle, a read every other.

    Attributes:
        registers: the signal of every register that is no constant, by name.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.bus = given(AxiLite(ADDRESS_BITS), "the host's access", "{}")
        self.request = gives(RunRequest(), "what the host asks for", "{}")
        self.hold = given(1, "no access is taken")
        self.dial = gives(32, HOST["DIAL"].meaning)
        self.check = gives(32, HOST["CHECK"].meaning)
        self.ring = gives(32, HOST["RING"].meaning)
        self.ring_records = gives(32, HOST["RING_RECORDS"].meaning)
        self.state = given(RunState(), "how the run goes", "{}")
        self.kv_entries = given(32, HOST["KV_ENTRIES"].meaning)
        for name in counters_of(machine):
            setattr(self, name.lower(), given(64, HOST[name].meaning))
        super().__init__()
        absent = set(COUNTERS) - set(counters_of(machine))
        self.readable = tuple(name for name in (*WRITABLE, *READABLE) if name not in absent)
        self.upper = tuple(name for name in UPPER if name.removesuffix("_HIGH") not in absent)
        self.registers: dict[str, Signal] = {name: vars(self)[name.lower()] for name in self.readable}

    def elaborate(self, platform: object) -> Module:
        m, bus = Module(), self.bus
        # Writes: address and data are taken together.
        working = ~ResetSignal("sync", allow_reset_less=True) & ~self.hold
        write = bus.awvalid & bus.wvalid & (~bus.bvalid | bus.bready) & working
        requests = (self.request.start, self.request.clear, self.request.abort)
        m.d.comb += [bus.awready.eq(write), bus.wready.eq(write)]
        m.d.sync += [request.eq(0) for request in requests]
        with m.If(write):
            m.d.sync += bus.bvalid.eq(1)
            with m.Switch(bus.awaddr):
                for name in WRITABLE:
                    with m.Case(HOST[name].address):
                        register = self.registers[name]
                        for byte in range(4):
                            with m.If(bus.wstrb[byte]):
                                m.d.sync += register[8 * byte : 8 * byte + 8].eq(bus.wdata[8 * byte : 8 * byte + 8])
                with m.Case(HOST["CONTROL"].address):
                    m.d.sync += [
                        request.eq(((bus.wdata[:8] & bit) != 0) & bus.wstrb[0])
                        for request, bit in zip(requests, (CONTROL_START, CONTROL_CLEAR, CONTROL_ABORT), strict=True)
                    ]
        with m.Elif(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        # Reads: what is asked for is made out a cycle before it is taken.
        known, read = Signal(), Signal()
        m.d.comb += [read.eq(bus.arvalid & known & (~bus.rvalid | bus.rready) & working), bus.arready.eq(read)]
        m.d.sync += known.eq(bus.arvalid & ~read)
        constants = {
            "MAGIC": MAGIC,
            "VERSION": ISA_VERSION,
            "MACHINE": identity(self.machine.fingerprint),
            "NUMERICS": identity(self.machine.numerics_fingerprint(self.machine.numerics[0])),
        }
        kept = Signal(32)
        sources: list[tuple[Value, tuple[str, ...]]] = [
            *((Const(constant, 64), (name,)) for name, constant in constants.items()),
            *((self.registers[name], (name,)) for name in self.readable),
            (Cat(kept, kept), self.upper),
        ]
        shown = []
        for source, names in sources:
            asked = Cat(bus.araddr == HOST[name].address for name in names).any()
            shown.append(Mux(registered(m, asked, f"asked_{names[0].lower()}"), source, 0))
        value = Signal(64)
        m.d.comb += value.eq(tree(shown, operator.or_))
        with m.If(read):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(value[:32]), kept.eq(value[32:])]
        with m.Elif(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        m.d.comb += [bus.bresp.eq(0), bus.rresp.eq(0)]
        return m
