"""The walk over the KV map: keys of all tokens of an instruction once and in order, then their values."""

from __future__ import annotations

from amaranth.hdl import Mux, Signal

from hw.kv.map import MapWalk
from skipopu.machine.config import Machine
from tests.formal.laws import Laws, Unit

MACHINE = Machine.load("mono")
DEADLINE = 24  # cycles looked at where there is no proof for all
TOKEN_BITS = 2  # of an instruction's last token here


def laws() -> Laws:
    laws, walk = Laws(), MapWalk(MACHINE)
    m = laws.m
    m.submodules.walk = walk
    last, row, serial = Signal(TOKEN_BITS), Signal(TOKEN_BITS), laws.fixed(1, "serial")
    # An instruction begins when the one before it was walked; then keys, then values meet what they are for.
    keys_left, values_left, begun = Signal(TOKEN_BITS + 1), Signal(TOKEN_BITS + 1), Signal()
    keys, values = Signal(), Signal()
    start = laws.free(1, "start") & (keys_left == 0) & (values_left == 0) & ~keys & ~values & ~laws.before(values)
    chosen, place_of = laws.free(TOKEN_BITS, "last"), laws.free(TOKEN_BITS, "row")
    with m.If(start):
        m.d.sync += [last.eq(chosen), row.eq(place_of), keys_left.eq(chosen + 1), values_left.eq(chosen + 1), begun.eq(1)]
    to_values = keys & laws.free(1, "keys_done") & (keys_left == 0)
    ends = values & laws.free(1, "values_done") & (values_left == 0)
    between = Signal()
    m.d.sync += [keys.eq((keys | start) & ~to_values), between.eq(to_values), values.eq((values | between) & ~ends)]
    for port, value in (
        (walk.start, start),
        (walk.last, last),
        (walk.map_row, row),
        (walk.phase.keys, keys),
        (walk.phase.values, values),
        (walk.serial, serial),
        (walk.idle, ~keys & ~values & ~between),
    ):
        m.d.comb += port.eq(value)
    laws.drive(walk.unwritten, walk.entry_words, walk.heads.kv_words)
    m.d.comb += walk.own.eq(laws.fixed(len(walk.own), "own"))
    m.d.comb += walk.taken.eq(laws.free(1, "taken") & walk.asking)
    # The map's entry of an address is its lower bits.
    m.d.sync += walk.map.data.place.eq(walk.map.address)
    keys_asked = walk.taken & ~walk.wanted.entry.half.values
    values_asked = walk.taken & walk.wanted.entry.half.values
    with m.If(~start):
        m.d.sync += [keys_left.eq(keys_left - keys_asked), values_left.eq(values_left - values_asked)]
    left = Mux(walk.wanted.entry.half.values, values_left, keys_left)
    laws.law(
        "an entry that is asked for is left to be asked for, values when all keys are",
        ~walk.asking | ((left != 0) & (~walk.wanted.entry.half.values | (keys_left == 0))),
    )
    laws.law("tokens come in order, each once", ~walk.asking | (walk.wanted.entry.token == last + 1 - left))
    laws.law(
        "values come in their own phase, where they have to",
        ~(walk.asking & walk.wanted.entry.half.values & serial) | values | laws.before(values),
    )
    laws.law(
        "an entry has the place that the map gives for its token",
        ~walk.asking | (walk.wanted.place == row + walk.wanted.entry.token),
    )
    laws.law(
        "an entry of the instruction's own tokens is not asked for before it is written",
        ~(walk.asking & walk.unwritten) | (walk.wanted.entry.token < walk.own),
        bound=DEADLINE,
    )
    laws.law("nothing is asked for ahead on a machine that keeps nothing", ~walk.ahead)
    laws.law(
        "what is asked for stands until it is taken",
        laws.before(walk.taken | walk.unwritten) | walk.unwritten | ~laws.before(walk.asking) | walk.asking,
    )
    laws.law(
        "all keys were asked for, when it says so",
        ~(walk.keys_requested & begun & ~laws.before(start)) | (keys_left == 0),
        bound=DEADLINE,
    )
    laws.law(
        "all values were asked for, when it says so",
        ~(walk.values_requested & (keys | values)) | (values_left == 0),
        bound=DEADLINE,
    )
    late = Signal(3)
    m.d.sync += late.eq(
        Mux(walk.asking | walk.unwritten | (Mux(values, values_left, Mux(keys, keys_left, 0)) == 0), 0, late + 1)
    )
    laws.law("what is left is asked for in 4 cycles", late < 4, bound=DEADLINE)
    laws.reached(
        "the third token's value is asked for",
        walk.taken & walk.wanted.entry.half.values & (walk.wanted.entry.token == 2),
        within=DEADLINE,
    )
    return laws


UNITS = (Unit("hw/kv/map.py", laws, f"`mono`, instructions of up to {1 << TOKEN_BITS} tokens"),)
