"""Gearbox: nothing is lost, doubled or out of order, whatever the clocks are to each other."""

from __future__ import annotations

from unittest.mock import patch

from amaranth.hdl import Array, Cat, ClockDomain, ClockSignal, EnableInserter, Module, Mux, Signal, Value

from hw.memory.axi import BURST_INCR
from hw.shell.gearbox import RATIO, Gearbox
from tests.formal.laws import Laws, Unit

BITS, ADDRESS_BITS = 64, 4
FLIGHT_BITS = 3  # of a beat's number
HELD = 3  # in each crossing
PATIENCE = 8  # cycles in which both clocks tick, from an item's coming to its being shown
DEADLINE, LATER = 12, 16  # cycles looked at where there is no proof for all


class Small(Gearbox):
    """With crossings for :data:`HELD` items."""

    def elaborate(self, platform: object) -> Module:
        with patch.multiple("hw.shell.gearbox", REQUESTS=HELD, DATA=HELD):
            return super().elaborate(platform)


class Clocked:
    """A gearbox whose two clocks tick in any cycles, each in its own ones or both at once."""

    def __init__(self, laws: Laws) -> None:
        self.gearbox = Small(BITS, ADDRESS_BITS)
        self.outer, self.inner = laws.free(1, "tick"), laws.free(1, "memory_tick")
        m = laws.m
        m.domains.memory = ClockDomain("memory")
        m.d.comb += ClockSignal("memory").eq(ClockSignal())
        m.submodules.gearbox = EnableInserter({"sync": self.outer, "memory": self.inner})(self.gearbox)


def shown(laws: Laws, name: str, ticks: Value, inside: Value, valid: Value, bound: int = 0) -> None:
    """Claims that what is ``inside`` is not lost."""
    late = Signal(range(PATIENCE + 1), name="late")
    laws.m.d.sync += late.eq(Mux(inside & ~valid, late + (ticks & (late != PATIENCE)), 0))
    laws.law(f"{name}: shown {PATIENCE} cycles of both clocks after they came, at the latest", late < PATIENCE, bound)


def ordered(laws: Laws, name: str, sent: Value, source: Value, received: Value, seen: Value) -> Value:
    """Claims of items numbered where they go in, in ``source``, that they come out so; gives whether any is inside."""
    m = laws.m
    ins, outs = Signal(len(source), name="went_in"), Signal(len(source), name="came_out")
    m.d.comb += source.eq(ins)
    m.d.sync += [ins.eq(ins + sent), outs.eq(outs + received)]
    laws.law(f"{name}: each once and in order", ~received | ((seen == outs) & (ins != outs)))
    laws.reached(f"{name}: the second comes out", received & (outs == 1))
    return ins != outs


def laws() -> Laws:
    laws = Laws()
    clocked = Clocked(laws)
    wide, narrow, tick, memory_tick = clocked.gearbox.wide, clocked.gearbox.narrow, clocked.outer, clocked.inner
    m = laws.m
    laws.drive(wide.arvalid, wide.awvalid, wide.wvalid, wide.rready, wide.bready)
    laws.drive(narrow.arready, narrow.awready, narrow.wready, narrow.rvalid, narrow.bvalid)
    # All of an address goes by its number.
    half = BITS // RATIO
    read = narrow.arvalid, narrow.araddr, narrow.arlen, narrow.arid, narrow.arsize, narrow.arburst
    write = narrow.awvalid, narrow.awaddr, narrow.awlen, narrow.awid, narrow.awsize, narrow.awburst
    channels = (
        ("read", (wide.araddr, wide.arlen, wide.arid), read),
        ("write", (wide.awaddr, wide.awlen, wide.awid), write),
    )
    for kind, (number, length, name), (valid, address, beats, whose, size, burst) in channels:
        m.d.comb += [length.eq(number), name.eq(~number)]
        laws.law(
            f"a {kind} of n beats becomes one of 2n, of half the beat, with its ID",
            ~valid
            | (
                (beats == Cat(1, address))
                & (whose == ~address[: len(whose)])
                & (size == (half // 8 - 1).bit_length())
                & (burst == BURST_INCR)
            ),
        )
    for kind, valid, ready, payload in (
        ("an address to read", narrow.arvalid, narrow.arready & memory_tick, narrow.araddr),
        ("an address to write", narrow.awvalid, narrow.awready & memory_tick, narrow.awaddr),
        ("data to write", narrow.wvalid, narrow.wready & memory_tick, Cat(narrow.wdata, narrow.wstrb, narrow.wlast)),
        ("data read", wide.rvalid, wide.rready & tick, Cat(wide.rdata, wide.rid, wide.rresp, wide.rlast)),
        ("an answer to a write", wide.bvalid, wide.bready & tick, Cat(wide.bid, wide.bresp)),
    ):
        laws.law(f"{kind} that was shown stands until it is taken", laws.stands(valid, ready, payload))
    inside = ordered(
        laws,
        "reads asked for",
        wide.arvalid & wide.arready & tick,
        wide.araddr,
        narrow.arvalid & narrow.arready & memory_tick,
        narrow.araddr,
    )
    shown(laws, "reads asked for", tick & memory_tick, inside, narrow.arvalid)
    inside = ordered(
        laws,
        "writes announced",
        wide.awvalid & wide.awready & tick,
        wide.awaddr,
        narrow.awvalid & narrow.awready & memory_tick,
        narrow.awaddr,
    )
    shown(laws, "writes announced", tick & memory_tick, inside, narrow.awvalid)
    inside = ordered(
        laws,
        "answers to writes",
        narrow.bvalid & narrow.bready & memory_tick,
        Cat(narrow.bid, narrow.bresp),
        wide.bvalid & wide.bready & tick,
        Cat(wide.bid, wide.bresp),
    )
    shown(laws, "answers to writes", tick & memory_tick, inside, wide.bvalid)
    # Halves are numbered; the lower one of a beat goes first.
    sent, went = wide.wvalid & wide.wready & tick, narrow.wvalid & narrow.wready & memory_tick
    ins, outs = laws.counter(FLIGHT_BITS, sent, 0), laws.counter(FLIGHT_BITS + 1, went, 0)
    m.d.comb += [wide.wdata[:half].eq(Cat(0, ins)), wide.wdata[half:].eq(Cat(1, ins)), wide.wlast.eq(ins[0])]
    m.d.comb += [wide.wstrb[: half // 8].eq(ins), wide.wstrb[half // 8 :].eq(~ins)]
    laws.law(
        "data written: both halves of each beat once, the lower one first",
        ~went | ((narrow.wdata == outs) & (outs[1:] != ins)),
    )
    laws.law(
        "strobes go with their half, WLAST with the upper half of the last beat",
        ~went | ((narrow.wlast == outs[:2].all()) & (narrow.wstrb == Mux(outs[0], ~outs[1:], outs[1:])[: half // 8])),
    )
    shown(laws, "data written", tick & memory_tick, outs[1:] != ins, narrow.wvalid)
    # Data read: halves of one ID are numbered, IDs interleave at will.
    came, got = narrow.rvalid & narrow.rready & memory_tick, wide.rvalid & wide.rready & tick
    name = laws.free(2, "rid")
    ids = range(1 << len(narrow.rid))
    in_of = Array(laws.counter(FLIGHT_BITS, came & (name == k), 0) for k in ids)
    out_of = Array(laws.counter(FLIGHT_BITS - 1, got & (wide.rid == k), 0) for k in ids)
    into = in_of[name]
    m.d.comb += [narrow.rid.eq(name), narrow.rdata.eq(into), narrow.rlast.eq(into[0] & into[1])]
    m.d.comb += narrow.rresp.eq(Mux(into[0], into[1], Cat(0, into[2])))
    number = out_of[wide.rid]
    laws.law(
        "data read: both halves of each beat, of one ID each once and in order",
        ~got
        | ((wide.rdata[:half] == Cat(0, number)) & (wide.rdata[half:] == Cat(1, number)) & (in_of[wide.rid] >> 1 != number)),
        bound=DEADLINE,
    )
    laws.law(
        "a beat that was read has RLAST of its upper half, RRESP of the lower one unless that is OKAY",
        ~got | ((wide.rlast == number[0]) & (wide.rresp == Mux(number[1], 2, number[0]))),
        bound=DEADLINE,
    )
    beats_inside = Cat(came_in >> 1 != out for came_in, out in zip(in_of, out_of, strict=True)).any()
    shown(laws, "data read", tick & memory_tick, beats_inside, wide.rvalid, LATER)
    laws.reached("a beat that was read comes out", got, within=DEADLINE)
    laws.reached("a beat's upper half is written", went & outs[0])
    return laws


UNITS = (
    Unit(
        "hw/shell/gearbox.py",
        laws,
        f"{BITS} bits to {BITS // RATIO}, {HELD} items per crossing, each clock ticking in any cycles",
    ),
)
