"""Gearbox: nothing is lost, doubled or out of order, whatever the clocks are to each other."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, ClockDomain, ClockSignal, EnableInserter, Mux, Signal, Value

from hw.memory.axi import BURST_INCR
from hw.shell.gearbox import RATIO, Gearbox
from tests.formal.laws import Laws, Unit

BITS, ADDRESS_BITS = 64, 12
FLIGHT_BITS = 5  # of a beat's number
DEADLINE, EARLIER = 14, 11  # cycles looked at


class Clocked:
    """A gearbox whose two clocks tick in any cycles, each in its own ones or both at once."""

    def __init__(self, laws: Laws) -> None:
        self.gearbox = Gearbox(BITS, ADDRESS_BITS)
        self.outer, self.inner = laws.free(1, "tick"), laws.free(1, "memory_tick")
        m = laws.m
        m.domains.memory = ClockDomain("memory")
        m.d.comb += ClockSignal("memory").eq(ClockSignal())
        m.submodules.gearbox = EnableInserter({"sync": self.outer, "memory": self.inner})(self.gearbox)


def ordered(laws: Laws, name: str, sent: Value, source: Value, received: Value, seen: Value, bound: int) -> None:
    """Claims of items numbered where they go in, in ``source``, that they come out so."""
    m = laws.m
    ins, outs = Signal(len(source), name="went_in"), Signal(len(source), name="came_out")
    m.d.comb += source.eq(ins)
    m.d.sync += [ins.eq(ins + sent), outs.eq(outs + received)]
    laws.law(f"{name}: each once and in order", ~received | ((seen == outs) & (ins != outs)), bound=bound)
    laws.reached(f"{name}: the second comes out", received & (outs == 1))


def laws() -> Laws:
    laws = Laws()
    clocked = Clocked(laws)
    wide, narrow, tick, memory_tick = clocked.gearbox.wide, clocked.gearbox.narrow, clocked.outer, clocked.inner
    m = laws.m
    laws.drive(wide.arvalid, wide.awvalid, wide.wvalid, wide.rready, wide.bready)
    laws.drive(narrow.arready, narrow.awready, narrow.wready, narrow.rvalid, narrow.bvalid, wide.arlen, wide.awlen)
    ordered(
        laws,
        "reads asked for",
        wide.arvalid & wide.arready & tick,
        wide.araddr,
        narrow.arvalid & narrow.arready & memory_tick,
        narrow.araddr,
        DEADLINE,
    )
    ordered(
        laws,
        "writes announced",
        wide.awvalid & wide.awready & tick,
        wide.awaddr,
        narrow.awvalid & narrow.awready & memory_tick,
        narrow.awaddr,
        DEADLINE,
    )
    ordered(
        laws,
        "answers to writes",
        narrow.bvalid & narrow.bready & memory_tick,
        Cat(narrow.bid, narrow.bresp),
        wide.bvalid & wide.bready & tick,
        Cat(wide.bid, wide.bresp),
        DEADLINE,
    )
    # Halves are numbered; the lower one of a beat goes first.
    half = BITS // RATIO
    sent, went = wide.wvalid & wide.wready & tick, narrow.wvalid & narrow.wready & memory_tick
    ins, outs = laws.counter(FLIGHT_BITS, sent, 0), laws.counter(FLIGHT_BITS + 1, went, 0)
    m.d.comb += [wide.wdata[:half].eq(Cat(0, ins)), wide.wdata[half:].eq(Cat(1, ins)), wide.wlast.eq(ins[0])]
    m.d.comb += [wide.wstrb[: half // 8].eq(ins), wide.wstrb[half // 8 :].eq(~ins)]
    laws.law(
        "data written: both halves of each beat once, the lower one first",
        ~went | ((narrow.wdata == outs) & (outs[1:] != ins)),
        bound=DEADLINE,
    )
    laws.law(
        "strobes go with their half, WLAST with the upper half of the last beat",
        ~went | ((narrow.wlast == outs[:2].all()) & (narrow.wstrb == Mux(outs[0], ~outs[1:], outs[1:])[: half // 8])),
        bound=DEADLINE,
    )
    laws.law(
        "a burst of n beats becomes one of 2n, of half the beat, in its order",
        ~narrow.arvalid | (narrow.arlen[0] & (narrow.arsize == (half // 8 - 1).bit_length()) & (narrow.arburst == BURST_INCR)),
    )
    # Data read: halves of one ID are numbered, IDs interleave at will.
    came, got = narrow.rvalid & narrow.rready & memory_tick, wide.rvalid & wide.rready & tick
    name = laws.free(2, "rid")
    ids = range(1 << len(narrow.rid))
    in_of = Array(laws.counter(FLIGHT_BITS, came & (name == k), 0) for k in ids)
    out_of = Array(laws.counter(FLIGHT_BITS - 1, got & (wide.rid == k), 0) for k in ids)
    m.d.comb += [narrow.rid.eq(name), narrow.rdata.eq(in_of[name])]
    number = out_of[wide.rid]
    laws.law(
        "data read: both halves of each beat, of one ID each once and in order",
        ~got
        | ((wide.rdata[:half] == Cat(0, number)) & (wide.rdata[half:] == Cat(1, number)) & (in_of[wide.rid] >> 1 != number)),
        bound=EARLIER,
    )
    laws.reached("a beat that was read comes out", got)
    laws.reached("a beat's upper half is written", went & outs[0])
    return laws


UNITS = (Unit("hw/shell/gearbox.py", laws, f"{BITS} bits to {BITS // RATIO}, each clock ticking in any cycles"),)
