"""AXI4-Lite registers: every access that is taken is answered once, none is taken in reset."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Mux, ResetSignal, Signal

from hw.control.host import HostRegisters
from hw.memory.axi import AxiLite
from skipopu.isa.registers import HOST
from skipopu.machine.config import Machine
from tests.formal.laws import Laws, Unit

MACHINE = Machine.load("mono")


def resettable(laws: Laws, registers: HostRegisters, reset: Signal) -> None:
    """Puts the registers into a clock domain that ``reset`` resets, as the overlay is."""
    m = laws.m
    m.domains.unit = ClockDomain("unit")
    m.d.comb += [ClockSignal("unit").eq(ClockSignal()), ResetSignal("unit").eq(reset)]
    m.submodules.registers = DomainRenamer("unit")(registers)


def drive_host(laws: Laws, bus: AxiLite) -> None:
    """A host that keeps to AXI4-Lite: what it offers stands until it is taken."""
    m = laws.m
    for valid, ready, *payload in (
        (bus.awvalid, bus.awready, bus.awaddr),
        (bus.wvalid, bus.wready, bus.wdata, bus.wstrb),
        (bus.arvalid, bus.arready, bus.araddr),
    ):
        waits = laws.before(valid & ~ready)
        m.d.comb += valid.eq(waits | laws.free(1))
        for signal in payload:
            m.d.comb += signal.eq(Mux(waits, laws.before(signal), laws.free(len(signal))))
    laws.drive(bus.bready, bus.rready)


def answered_once(laws: Laws, bus: AxiLite, reset: Signal, patience: int) -> None:
    """Claims it, and that an answer comes in ``patience`` cycles; one access of each kind may be owed an answer.

    ``reset`` forgets what is owed.
    """
    m = laws.m
    write, read = bus.awvalid & bus.awready, bus.arvalid & bus.arready
    laws.law("address and data of a write are taken together", write == (bus.wvalid & bus.wready))
    for name, taken, valid, ready, *payload in (
        ("write", write, bus.bvalid, bus.bready, bus.bresp),
        ("read", read, bus.rvalid, bus.rready, bus.rdata, bus.rresp),
    ):
        owed, age = Signal(2, name=f"{name}s_owed"), Signal(range(patience + 2), name=f"{name}_age")
        m.d.sync += owed.eq(Mux(reset, 0, owed + taken - (valid & ready)))
        m.d.sync += age.eq(Mux(reset | valid | (owed == 0), 0, Mux(age > patience, age, age + 1)))
        laws.law(f"a {name} is answered after it was taken, and once", ~valid | (owed != 0) | reset)
        laws.law(f"a {name} is taken when the one before it is answered", owed <= 1)
        laws.law(f"a {name} is answered in {patience} cycles", age < patience)
        laws.law(f"an answer to a {name} stands until it is taken", laws.before(reset) | laws.stands(valid, ready, *payload))
        again = Signal(name=f"{name}_again")
        m.d.sync += again.eq(again | (valid & ready))
        laws.reached(f"a second {name} is answered late", again & valid & ready & ~laws.before(ready) & laws.before(valid))
    laws.law("nothing is taken in reset", ~reset | ~(write | read))


def laws() -> Laws:
    laws, registers = Laws(), HostRegisters(MACHINE)
    m, bus = laws.m, registers.bus
    reset = laws.free(1, "reset")
    resettable(laws, registers, reset)
    laws.drive(registers.hold)
    drive_host(laws, bus)
    laws.law("nothing is taken on hold", ~registers.hold | ~((bus.awvalid & bus.awready) | (bus.arvalid & bus.arready)))
    answered_once(laws, bus, reset, 1)
    # One register of those that a host writes, any byte of it.
    byte, held = laws.fixed(2, "byte"), Signal(8)
    write = bus.awvalid & bus.awready & (bus.awaddr == HOST["PROGRAM"].address) & bus.wstrb.bit_select(byte, 1)
    m.d.sync += held.eq(Mux(reset, 0, Mux(write, bus.wdata.word_select(byte, 8), held)))
    laws.law("a register holds what was written last, byte by byte", registers.request.program.word_select(byte, 8) == held)
    asked = laws.before(bus.arvalid & bus.arready & (bus.araddr == HOST["PROGRAM"].address))
    laws.law("a read brings what the register held", ~asked | (bus.rdata.word_select(byte, 8) == laws.before(held)))
    return laws


UNITS = (Unit("hw/control/host.py", laws, "registers of `mono`, reset at any time"),)
