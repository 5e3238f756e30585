"""Multipliers that keep their rows: a beat is an input channel of many rows, and sums stay where they are made."""

from __future__ import annotations

from functools import partial

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed

from hw.arithmetic.pipeline import adder_tree, delay_valid, registered
from hw.component import Component, given, gives
from hw.library import Library
from hw.pe.dot import PROBABILITY_BITS, WEIGHTED_BITS, PackedDot
from hw.pe.formats import FORMAT_BITS, integer
from hw.pe.stationary.multiplier import Multiplier
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, TOKENS_AT_ONCE, Machine
from skipopu.numerics.accumulate import SIDE_BITS, SPACING, WIDTH
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.packing import WEIGHT_BITS

PACKED_BITS = SPACING + WEIGHT_BITS  # of two weights in one operand: the second one is a bit longer for what the first borrows


def _packed(m: Module, lower: Value, upper: Value, name: str) -> Value:
    """Two weights as one operand, the upper one less what the lower one borrows."""
    wide = Signal(signed(PACKED_BITS), name=name)
    m.d.comb += wide.eq(Cat(lower, lower[-1].replicate(SPACING - len(lower)), upper - lower[-1]))
    return wide


class Lanes(Component):
    """``port_bits / 8`` multipliers for each of two tokens, with two rows each; :mod:`skipopu.numerics.accumulate` has the numbers.

    A channel's weights meet one number per token, which all multipliers of the token and channel share. With a group's ``last`` beat the
    sums are put aside; ``select`` chooses a multiplier's, or adds up those of the same rows. Every two multipliers have a
    third one for what their registers have no room for. Attention: with ``keys`` a multiplier takes an element of K and one
    of a query, a quarter of the multipliers per query, with ``values`` those of the first quarter the probability and an element of V.

    Latency: PUT_ASIDE cycles from the last beat's activations until its sums can be selected, ``selected`` from ``select`` to ``own``;
    pipeline.STEP_SUM from operands of attention to ``products``, 2 and the levels of a quarter's tree more to ``dots``. Throughput: a
    beat, a selection, and a set of attention's operands per cycle.

    Parameters:
        machine: the machine.
        library: takes the multipliers, which are alike; without one each is a unit of its own.
    """

    PUT_ASIDE = pipeline.STEP_SUM + 1

    def __init__(self, machine: Machine, library: Library | None = None) -> None:
        self.machine = machine
        self.lanes, self.pairs, self.quarter = machine.weight_lanes, machine.weight_lanes // 2, machine.kv_lanes
        self.levels = pipeline.tree(self.quarter)
        self.slots = machine.channel_slots
        self.beat = given(4 * self.lanes, "codes of a channel, a cycle before its activations")
        self.format = given(FORMAT_BITS, "of the weights")
        self.operand = given(
            ALIGNED_BITS * self.lanes, "of each multiplier: its token's activation of its channel, or its query's element"
        )
        self.valid = given(1, "activations of a beat")
        self.first = given(1, "of the group's first one")
        self.last = given(1, "of the last one")
        self.keys = given(1, "attention multiplies queries by keys")
        self.values = given(1, "attention multiplies a probability by values")
        self.element = given(ALIGNED_BITS * self.quarter, "of an entry")
        self.probability = given(PROBABILITY_BITS, "of the entry")
        self.select = given(range(self.lanes), "a multiplier")
        self.adds = given(self.levels, "bits of its number for which others' sums are added")
        self.own = gives(WIDTH + SIDE_BITS, "the register and what is beside it")
        self.dots = gives(PackedDot.dot_bits(self.lanes) * QUERY_LANES, "sums of the quarters' products")
        self.products = gives(WEIGHTED_BITS * self.quarter, "the first quarter's products")
        super().__init__()
        main = partial(Multiplier, PACKED_BITS, ALIGNED_BITS, PROBABILITY_BITS + 1)
        beside = partial(Multiplier, PACKED_BITS, SIDE_BITS + 1)
        self.multipliers, self.thirds = (
            {k: library.use(name, build, f"{name}_{k}") if library else build() for k in lanes}
            for name, build, lanes in (
                ("multiplier", main, range(self.lanes)),
                ("multiplier_beside", beside, [k for k in range(self.lanes) if not k & self.slots]),
            )
        )

    @staticmethod
    def selected(machine: Machine) -> int:
        """Cycles from ``select`` to ``own``."""
        return 1 + pipeline.tree(machine.kv_lanes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        at = pipeline.STEP_SUM - 1
        attend = delay_valid(m, self.keys | self.values, at, "attend")
        valid = delay_valid(m, self.valid, at, "valid") | attend
        more = delay_valid(m, ~self.first, at, "more") & ~attend
        keep = delay_valid(m, self.valid & self.last, at + 1, "last") | registered(m, attend, "attended")
        pairs = [self._weights(m, i) for i in range(self.pairs)]
        totals = [self._multiplier(m, lane, pairs[lane % self.pairs][0], valid, more) for lane in range(self.lanes)]
        sides: list[Value] = [Const(0)] * self.lanes
        for lane in self.thirds:  # its two multipliers have the same activation
            uppers = [pairs[k % self.pairs][1] for k in (lane, lane + self.slots)]
            sides[lane], sides[lane + self.slots] = self._third(m, lane, uppers, valid, more)
        kept: list[Value] = []
        for lane, (total, side) in enumerate(zip(totals, sides, strict=True)):
            aside = Signal(WIDTH + SIDE_BITS, name=f"aside_{lane}", reset_less=True)
            with m.If(keep):
                m.d.sync += aside.eq(Cat(total, side))
            kept.append(aside)
        for k in range(self.quarter):
            m.d.comb += self.products[WEIGHTED_BITS * k : WEIGHTED_BITS * (k + 1)].eq(totals[k][:WEIGHTED_BITS])
        self._sums(m, [kept[q * self.quarter : (q + 1) * self.quarter] for q in range(QUERY_LANES)])
        return m

    def _weights(self, m: Module, i: int) -> tuple[Value, Value]:
        """The packed operand of a pair of codes, and the second one's weight alone."""
        nibbles = [self.beat[8 * i + 4 * k : 8 * i + 4 * k + 4] for k in range(2)]
        lower, upper = (
            integer(m, nibble, self.format, k, f"weight_{i}_{k}", self.machine.weight_formats, centred=True)
            for k, nibble in enumerate(nibbles)
        )
        return _packed(m, lower, upper, f"wide_{i}"), upper

    def _operand(self, lane: int) -> Value:
        return self.operand[ALIGNED_BITS * lane : ALIGNED_BITS * (lane + 1)]

    def _multiplier(self, m: Module, lane: int, wide: Value, valid: Value, more: Value) -> Value:
        """The sum of a multiplier's products since one without ``more``, which comes with the product."""
        k = lane % self.quarter
        element = self.element[ALIGNED_BITS * k : ALIGNED_BITS * (k + 1)].as_signed()
        narrow: Value = self._operand(lane).as_signed()
        other: Value = element
        if lane < self.quarter:
            other = Mux(self.values, Cat(self.probability, Const(0, 1)).as_signed(), element)
            narrow = Mux(self.values, element, narrow)
        m.submodules[f"multiplier_{lane}"] = unit = self.multipliers[lane]
        m.d.comb += [
            unit.wide.eq(wide),
            unit.other.eq(other),
            unit.choose.eq(self.keys | self.values),
            unit.narrow.eq(narrow),
            unit.valid.eq(valid),
            unit.more.eq(more),
        ]
        return unit.total

    def _third(self, m: Module, lane: int, uppers: list[Value], valid: Value, more: Value) -> tuple[Value, Value]:
        """The second rows' sums of two multipliers modulo 2^SIDE_BITS, of the lower bits of their activation: sums below 2^19."""
        m.submodules[f"multiplier_beside_{lane}"] = unit = self.thirds[lane]
        m.d.comb += [
            unit.wide.eq(_packed(m, uppers[0], uppers[1], f"wide_beside_{lane}")),
            unit.narrow.eq(Cat(self._operand(lane)[:SIDE_BITS], Const(0, 1)).as_signed()),
            unit.valid.eq(valid),
            unit.more.eq(more),
        ]
        total = unit.total
        # What the first sum borrowed from the second one's lower bits.
        return total[:SIDE_BITS], (total[SPACING : SPACING + SIDE_BITS] + total[SPACING - 1])[:SIDE_BITS]

    def _sums(self, m: Module, quarters: list[list[Value]]) -> None:
        """A quarter's tree adds what was chosen for it, or attention's products as the others do."""
        attending = delay_valid(m, self.keys, pipeline.STEP_SUM + 1, "attending")  # with the products that were put aside
        within, which = self.select[: self.levels], self.select[self.levels :]
        every = self.adds | attending.replicate(self.levels)
        level: list[Value] = []
        for k, lanes in enumerate(zip(*quarters, strict=True)):  # those that are not added are zero: their registers' resets
            chosen = Signal(WIDTH + SIDE_BITS, name=f"chosen_{k}", reset_less=True)
            m.d.sync += chosen.eq(Array(lanes)[Mux(attending, 0, which)])
            with m.If(~(every | ~(within ^ k)).all()):
                m.d.sync += chosen.eq(0)
            level.append(chosen)
        for j in range(self.levels):
            pairs = [level[k : k + 2] for k in range(0, len(level), 2)]
            sums = [Cat((a[:WIDTH] + b[:WIDTH])[:WIDTH], (a[WIDTH:] + b[WIDTH:])[:SIDE_BITS]) for a, b in pairs]
            level = [registered(m, both, f"level_{j}_{k}") for k, both in enumerate(sums)]
        m.d.comb += self.own.eq(level[0])
        bits = PackedDot.dot_bits(self.lanes)
        for q in range(QUERY_LANES):
            dot: Value = level[0]
            if q:
                dot, _ = adder_tree(m, [lane[: 2 * ALIGNED_BITS].as_signed() for lane in quarters[q]], f"dot_{q}_")
                dot = registered(m, dot, f"dot_{q}")
            m.d.comb += self.dots[bits * q : bits * (q + 1)].eq(dot[:bits])


assert TOKENS_AT_ONCE == 2
