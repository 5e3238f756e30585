"""Multipliers that keep their rows: a beat is one input channel of many rows, and sums stay where they are made."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, ClockSignal, Const, Instance, Module, Mux, Signal, Value, signed

from hw.arithmetic.fp32 import FromInteger
from hw.arithmetic.pipeline import adder_tree, bits_for_index, delay, delay_valid, registered
from hw.component import given, gives
from hw.pe.dot import PROBABILITY_BITS
from hw.pe.variants.variant import Variant
from skipopu.machine.config import QUERY_LANES
from skipopu.numerics.accumulate import SIDE_BITS, SPACING, SUM_BITS, WIDTH
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS

TOKENS = 2  # that share a weight
DOT_BITS = 2 * ALIGNED_BITS + 3  # of a multiplier's sum over the beats of a key, 8 at most
PART_BITS = PROBABILITY_BITS + ALIGNED_BITS + 2  # of its sum over four tokens' values
AT_SUM = 4  # cycles from operands to a multiplier's sum: operands, the sum in front, product, sum


class Stationary(Variant):
    """``rows / 2`` multipliers for each of two tokens, with two rows each; :mod:`skipopu.numerics.accumulate` has the numbers.

    A channel's weights meet one number per token, which all multipliers of the token share. With a group's ``last`` channel the sums are
    put aside; ``select`` chooses a multiplier's, whose two rows' sums are rounded to FP32. Attention: with ``attend`` every
    multiplier takes operands of its own, an element of K and one of a query, or with ``values`` a query's probability and an element of V,
    a quarter of the multipliers per query; of the quarter that ``select`` names ``parts`` are the sums of each multiplier,
    ``dot`` their sum.

    Latency: PUT_ASIDE cycles from the last channel until its sums can be selected, ``latency`` from ``select`` to ``sums``. Throughput:
    a channel and a selection per cycle; two groups' ends are ``rows`` cycles apart, or half of that with one token.

    Parameters:
        rows: of a beat.
        hard: with the multiplier's own accumulator and choice of operands (DSP48E2), else described.
        beside: the sums beside two multipliers are a third one's.
    """

    PUT_ASIDE = AT_SUM + 1
    latency = 4 + FromInteger.LATENCY

    def __init__(self, rows: int, hard: bool = True, beside: bool = False) -> None:
        self.rows, self.hard, self.beside, self.lanes = rows, hard, beside, TOKENS * rows // 2
        self.quarter = quarter = self.lanes // QUERY_LANES
        self.beat = given(4 * rows, "a weight per row")
        self.plain = given(2, "nibbles of first, of second members are from 0 to 15, less 8 here")
        self.valid = given(1, "a channel")
        self.first = given(1, "it is the group's first one")
        self.last = given(1, "it is the last one")
        self.activations = [given(ALIGNED_BITS, f"the channel of token {t}") for t in range(TOKENS)]
        self.attend = given(1, "the operands are those of attention")
        self.values = given(1, "of values, else of keys")
        self.elements = given(ALIGNED_BITS * quarter, "of an entry")
        self.queries = given(ALIGNED_BITS * self.lanes, "the queries' elements")
        self.probabilities = given(PROBABILITY_BITS * QUERY_LANES, "of the entry, for each query")
        self.select = given(bits_for_index(self.lanes), "a multiplier")
        self.exponent = given(8, "of its group")
        self.sums = [gives(32, f"FP32 sum of member {k}'s products") for k in range(2)]
        self.parts = gives(PART_BITS * quarter, "sums of the multipliers of a quarter")
        self.dot = gives(signed(DOT_BITS + (quarter - 1).bit_length()), "their sum")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, last = delay_valid(m, self.first, AT_SUM - 1, "first"), delay_valid(m, self.last & self.valid, AT_SUM, "last")
        valid = delay_valid(m, self.valid, AT_SUM - 1, "valid")
        pairs = [self._weights(m, pair) for pair in range(self.rows // 2)]
        kept: list[Value] = []
        both: Value = Const(0)
        for lane in range(self.lanes):
            token, pair = divmod(lane, self.rows // 2)
            total = self._multiplier(m, lane, token, pairs[pair][0], valid, first)
            if not self.beside:
                side = self._side(m, lane, token, pairs[pair][1], valid, first)
            elif lane % 2 == 0:
                both = self._third(m, lane, token, [upper for _, upper in pairs[pair : pair + 2]], valid, first)
                side = both[:SIDE_BITS]
            else:
                side = both[SPACING : SPACING + SIDE_BITS]
            aside = Signal(WIDTH + SIDE_BITS, name=f"aside_{lane}", reset_less=True)
            with m.If(last):
                m.d.sync += aside.eq(Cat(total, side))
            kept.append(aside)
        quarters = [kept[q * self.quarter : (q + 1) * self.quarter] for q in range(QUERY_LANES)]
        which = self.select[self.quarter.bit_length() - 1 :]
        chosen = [registered(m, Array(lanes)[which], f"chosen_{k}") for k, lanes in enumerate(zip(*quarters, strict=True))]
        tree, _ = adder_tree(m, [lane[:DOT_BITS].as_signed() for lane in chosen], "dot")
        m.d.comb += [self.parts.eq(Cat(lane[:PART_BITS] for lane in chosen)), self.dot.eq(tree)]
        within = delay(m, self.select[: self.quarter.bit_length() - 1], 1, "within")
        own = registered(m, Array(chosen)[within], "own")
        self._rounded(m, own)
        return m

    def _weights(self, m: Module, pair: int) -> tuple[Value, Value]:
        """The packed operand of two rows, and the second row's weight alone."""
        lower, upper = (
            Cat(nibble[:3], nibble[3] ^ self.plain[k]).as_signed()
            for k, nibble in enumerate(self.beat[8 * pair + 4 * k : 8 * pair + 4 * k + 4] for k in range(2))
        )
        wide = Signal(signed(SPACING + 5), name=f"wide_{pair}")
        m.d.comb += wide.eq(Cat(lower[:4], lower[3].replicate(SPACING - 4), upper - lower[3]).as_signed())
        return wide, upper

    def _multiplier(self, m: Module, lane: int, token: int, wide: Value, valid: Value, first: Value) -> Value:
        """The sum of a multiplier's products since ``first``, which comes with the product."""
        k, query = lane % self.quarter, lane // self.quarter
        probability = self.probabilities[PROBABILITY_BITS * query : PROBABILITY_BITS * (query + 1)]
        asked = self.queries[ALIGNED_BITS * lane : ALIGNED_BITS * (lane + 1)].as_signed()
        other = Mux(self.values, Cat(probability, Const(0, 1)).as_signed(), asked)
        element = self.elements[ALIGNED_BITS * k : ALIGNED_BITS * (k + 1)].as_signed()
        narrow = Mux(self.attend, element, self.activations[token].as_signed())
        total = Signal(signed(WIDTH), name=f"total_{lane}", reset_less=True)
        self._accumulate(m, f"{lane}", (wide, other, self.attend), narrow, valid, first, total)
        return total

    def _accumulate(
        self, m: Module, name: str, wide: tuple[Value, Value, Value], narrow: Value, valid: Value, first: Value, total: Signal
    ) -> None:
        """One multiplier: see :func:`accumulating`."""
        plain, other, choose = wide
        if self.hard:
            m.submodules[f"multiplier_{name}"] = accumulating(plain, other, choose, narrow, valid, first, total)
            return
        operands = [registered(m, value, f"{what}_{name}") for what, value in (("d", other), ("a", plain))]
        operand = registered(m, Mux(delay(m, choose, 1, f"choose_{name}"), *operands), f"ad_{name}")
        product = registered(m, operand * delay(m, narrow, 2, f"b_{name}").as_signed(), f"m_{name}")
        with m.If(valid):
            m.d.sync += total.eq(Mux(first, 0, total) + product)

    def _third(self, m: Module, lane: int, token: int, uppers: list[Value], valid: Value, first: Value) -> Value:
        """The second rows' sums of two multipliers, of the lower bits of x: below 2^19, so that their lower bits come apart."""
        total = Signal(signed(WIDTH), name=f"beside_{lane}", reset_less=True)
        one, two = uppers
        wide = Cat(one[:4], one[3].replicate(SPACING - 4), two - one[3]).as_signed()[: SPACING + 5].as_signed()
        low = Cat(self.activations[token][:SIDE_BITS], Const(0, ALIGNED_BITS - SIDE_BITS)).as_signed()
        self._accumulate(m, f"beside_{lane}", (wide, Const(0, signed(27)), Const(0, 1)), low, valid, first, total)
        # What the first sum borrowed from the second one's lower bits.
        return Cat(total[:SPACING], (total[SPACING : SPACING + SIDE_BITS] + total[SPACING - 1])[:SIDE_BITS])

    def _side(self, m: Module, lane: int, token: int, upper: Value, valid: Value, first: Value) -> Value:
        """The second row's sum modulo 2^SIDE_BITS."""
        weight = registered(m, upper[:4], f"weight_{lane}")
        x = registered(m, self.activations[token][:SIDE_BITS], f"low_{lane}")
        rows = [(x & weight[j].replicate(SIDE_BITS)) << j for j in range(4)]
        halves = [
            registered(m, (rows[0] + rows[1])[:SIDE_BITS], f"half_0_{lane}"),
            registered(m, (rows[2] - rows[3])[:SIDE_BITS], f"half_1_{lane}"),
        ]
        product = registered(m, (halves[0] + halves[1])[:SIDE_BITS], f"side_product_{lane}")
        side = Signal(SIDE_BITS, name=f"side_{lane}", reset_less=True)
        with m.If(valid):
            m.d.sync += side.eq(Mux(first, 0, side) + product)
        return side

    def _rounded(self, m: Module, own: Value) -> None:
        """Takes a multiplier's sums apart; see :func:`skipopu.numerics.accumulate.apart`."""
        high, side = own[SPACING:WIDTH], own[WIDTH:]
        over = Signal(signed(SIDE_BITS))
        m.d.comb += over.eq(high[:SIDE_BITS] - side)
        lower = registered(m, Cat(own[:SPACING], over).as_signed(), "lower")
        upper = registered(m, (high - over)[:SUM_BITS].as_signed(), "upper")
        exponent = delay(m, self.exponent, 3, "exponent")
        for k, total in enumerate((lower, upper)):
            m.submodules[f"convert_{k}"] = convert = FromInteger(SUM_BITS)
            m.d.comb += [convert.mantissa.eq(total), convert.exponent.eq(exponent - ALIGNED_BIAS)]
            m.d.sync += self.sums[k].eq(convert.z)


def accumulating(
    wide: Value, other: Value, choose: Value, narrow: Value, valid: Value, first: Value, total: Signal
) -> Instance:
    """DSP48E2 with all its registers: ``total`` becomes (``wide``, or ``other`` where ``choose``) * ``narrow``, plus itself.

    ``total`` is AT_SUM cycles behind the operands; ``valid`` and ``first`` come a cycle before it. The choice is made by what the sum in
    front of the multiplier leaves out (UG579, INMODE). No free model of the block is at hand: tests run the described one.
    """
    return Instance(
        "DSP48E2",
        p_AMULTSEL="AD",
        p_BMULTSEL="B",
        p_AREG=1,
        p_ACASCREG=1,
        p_BREG=2,
        p_BCASCREG=2,
        p_DREG=1,
        p_ADREG=1,
        p_MREG=1,
        p_PREG=1,
        p_INMODEREG=1,
        **{f"p_{unused}": 0 for unused in ("OPMODEREG", "ALUMODEREG", "CARRYINREG", "CARRYINSELREG", "CREG")},
        p_USE_MULT="MULTIPLY",
        i_CLK=ClockSignal(),
        i_A=Cat(wide, wide[-1].replicate(30 - len(wide))),
        i_B=narrow,
        i_D=Cat(other, other[-1].replicate(27 - len(other))),
        i_INMODE=Cat(Const(0, 1), choose, choose, Const(0, 2)),
        i_OPMODE=Cat(Const(0b0101, 4), Const(0, 1), ~first, Const(0, 3)),
        i_ALUMODE=Const(0, 4),
        i_CARRYINSEL=Const(0, 3),
        i_CARRYIN=Const(0, 1),
        i_C=Const(0, WIDTH),
        **{f"i_RST{part}": Const(0, 1) for part in ("A", "B", "C", "D", "M", "P", "INMODE", "CTRL", "ALUMODE", "ALLCARRYIN")},
        **{f"i_{enable}": Const(1, 1) for enable in ("CEA1", "CEA2", "CEB1", "CEB2", "CED", "CEAD", "CEM", "CEINMODE")},
        i_CEP=valid,
        o_P=total,
    )
