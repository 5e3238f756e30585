"""Multipliers that keep their rows: a beat is an input channel of many rows, and sums stay where they are made."""

from __future__ import annotations

from functools import partial

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed

from hw.arithmetic.pipeline import delay_valid, registered
from hw.component import Component, given, gives
from hw.library import Library
from hw.pe.dot import PROBABILITY_BITS, WEIGHTED_BITS
from hw.pe.formats import FORMAT_BITS, integer
from hw.pe.stationary.multiplier import Multiplier
from skipopu.machine import pipeline
from skipopu.machine.config import ENTRIES_AT_ONCE, QUERY_LANES, TOKENS_AT_ONCE, Machine
from skipopu.numerics.accumulate import SIDE_BITS, SPACING, WIDTH
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.packing import WEIGHT_BITS

ADDED_BITS = WEIGHTED_BITS + (ENTRIES_AT_ONCE - 1).bit_length()  # of such a sum
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
    third one for what their registers have no room for. Attention: a quarter of the multipliers has a query; with ``keys`` each takes an
    element of K and one of the query, with ``values`` the query's probability and an element of V. They add up as well: over a head's
    beats, or over entries; a quarter's sums are selected with all of ``adds``.

    Latency: PUT_ASIDE cycles from the last beat's activations, or operands, until its sums can be selected, 1 from ``select`` to ``chosen``,
    ``selected`` to ``own``. Throughput: a beat, and a selection per cycle.

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
        self.valid = given(1, "activations of a beat, or operands of attention")
        self.first = given(1, "of the group's or sum's first one")
        self.last = given(1, "of the last one")
        self.keys = given(1, "attention multiplies queries by keys")
        self.values = given(1, "attention multiplies probabilities by values")
        self.element = given(ALIGNED_BITS * self.quarter, "of an entry")
        self.probabilities = given(PROBABILITY_BITS * QUERY_LANES, "of the entry, each quarter's query's")
        self.select = given(range(self.lanes), "a multiplier")
        self.adds = given(self.levels, "bits of its number for which others' sums are added")
        self.own = gives(WIDTH + SIDE_BITS, "the register and what is beside it")
        self.chosen = gives(ADDED_BITS * self.quarter, "each sum of the quarter selected, signed")
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

    @staticmethod
    def first_of(machine: Machine, query: Value) -> Value:
        """The first multiplier of a query's quarter."""
        return query << pipeline.tree(machine.kv_lanes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        at = pipeline.STEP_SUM - 1
        valid = delay_valid(m, self.valid, at, "valid")
        more = delay_valid(m, ~self.first, at, "more")
        keep = delay_valid(m, self.valid & self.last, at + 1, "last")
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
        query, k = divmod(lane, self.quarter)
        element = self.element[ALIGNED_BITS * k : ALIGNED_BITS * (k + 1)].as_signed()
        probability = Cat(self.probabilities.word_select(query, PROBABILITY_BITS), Const(0, 1)).as_signed()
        other = Mux(self.values, probability, element)
        narrow = Mux(self.values, element, self._operand(lane).as_signed())
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
        """A tree adds what was chosen of a quarter."""
        within, which = self.select[: self.levels], self.select[self.levels :]
        level: list[Value] = []
        for k, lanes in enumerate(zip(*quarters, strict=True)):  # those that are not added are zero: their registers' resets
            chosen = Signal(WIDTH + SIDE_BITS, name=f"chosen_{k}", reset_less=True)
            m.d.sync += chosen.eq(Array(lanes)[which])
            with m.If(~(self.adds | ~(within ^ k)).all()):
                m.d.sync += chosen.eq(0)
            level.append(chosen)
        m.d.comb += self.chosen.eq(Cat(chosen[:ADDED_BITS] for chosen in level))
        for j in range(self.levels):
            pairs = [level[k : k + 2] for k in range(0, len(level), 2)]
            sums = [Cat((a[:WIDTH] + b[:WIDTH])[:WIDTH], (a[WIDTH:] + b[WIDTH:])[:SIDE_BITS]) for a, b in pairs]
            level = [registered(m, both, f"level_{j}_{k}") for k, both in enumerate(sums)]
        m.d.comb += self.own.eq(level[0])


assert TOKENS_AT_ONCE == 2
