"""Many multipliers and the exact sums of their products."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed

from hw.arithmetic.pipeline import adder_tree, delay
from hw.component import Component, given, gives
from hw.library import Library
from hw.pe import multiplier
from hw.pe.formats import FORMAT_BITS, integer
from hw.pe.multiplier import multiply
from skipopu.machine.config import QUERY_LANES
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.formats import Format
from skipopu.numerics.packing import WEIGHT_BITS, spacing
from skipopu.numerics.tables import FRACTION_BITS

PROBABILITY_BITS = FRACTION_BITS + 1
WEIGHTED_BITS = PROBABILITY_BITS + ALIGNED_BITS  # of one p * v


class PackedDot(Component):
    """``lanes`` multipliers with two packed weights each, or one wide operand each, and trees over the halves of the products.

    Weights: a beat's nibbles are the first or the second member of a pair; the complete pair meets ``activation`` two cycles
    after the cycle from which it is used. ``lower`` and ``upper`` are the sums of the first and second members' products, ``latency``
    cycles after the activation. Attention, with the same trees: with ``keys`` the wide operands are the entry's elements, a
    quarter of the lanes per query; ``dots`` are the quarters' sums, ``dot_latency`` cycles after the operands. With
    ``values`` the first quarter multiplies elements by one probability; ``products`` follow after PRODUCT_LATENCY.

    Latency: ``latency`` and ``dot_latency``, as above. Throughput: a set of operands per cycle.

    Parameters:
        lanes: multipliers.
        primitive: "27x18" or "18x18".
        formats: of weights.
        bits: of aligned numbers; 18 in the machine, fewer in studies.
        library: takes the multipliers, which are alike; without one each is a unit of its own.
    """

    PRODUCT_LATENCY = multiplier.LATENCY

    def __init__(
        self,
        lanes: int,
        primitive: str,
        formats: Sequence[Format],
        bits: int = ALIGNED_BITS,
        library: Library | None = None,
    ) -> None:
        self.lanes, self.primitive, self.formats, self.bits, self.library = lanes, primitive, formats, bits, library
        self.quarter = lanes // QUERY_LANES
        self.probability_bits = min(PROBABILITY_BITS, spacing(bits) + WEIGHT_BITS - 1)
        weighted = self.probability_bits + bits
        total = bits + WEIGHT_BITS + (lanes - 1).bit_length()
        self.beat = given(4 * lanes, "a weight per lane")
        self.first = given(1, "keep the beat as the pair's first members")
        self.second = given(1, "it is the second members, the pair is complete")
        self.format = given(FORMAT_BITS, "of the weights")
        self.activation = given(bits * lanes, "operand of every lane")
        self.element = given(bits * self.quarter, "of an entry, shared by the quarters")
        self.keys = given(1, "lanes multiply activations by elements")
        self.values = given(1, "the first quarter multiplies elements by the probability")
        self.probability = given(self.probability_bits, "with the elements")
        self.lower = gives(signed(total), "sum of the first members' products")
        self.upper = gives(signed(total), "sum of the second members' products")
        self.dots = gives(self.dot_bits(lanes, bits) * QUERY_LANES, "sums of the quarters' products")
        self.products = gives(weighted * self.quarter, "the first quarter's products")
        super().__init__()

    @staticmethod
    def dot_bits(lanes: int, bits: int = ALIGNED_BITS) -> int:
        """Width of a quarter's sum of products of two aligned numbers."""
        return 2 * bits + (lanes // QUERY_LANES - 1).bit_length()

    @property
    def dot_latency(self) -> int:
        return self.PRODUCT_LATENCY + (self.quarter - 1).bit_length()

    @property
    def latency(self) -> int:
        return self.PRODUCT_LATENCY + (self.lanes - 1).bit_length() + 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kept = Signal(4 * self.lanes, reset_less=True)
        with m.If(self.first):
            m.d.sync += kept.eq(self.beat)
        products = [self._lane(m, i, kept) for i in range(self.lanes)]
        weighted = self.probability_bits + self.bits
        for k, product in enumerate(products[: self.quarter]):
            m.d.comb += self.products[weighted * k : weighted * (k + 1)].eq(product[:weighted])
        self._sum(m, products)
        return m

    def _lane(self, m: Module, i: int, kept: Signal) -> Value:
        """One multiplier; returns its product."""
        bits, distance = self.bits, spacing(self.bits)
        # A complete pair: lower weight, its sign apart, upper weight less the lower one's borrow.
        lower, sign, upper = (
            Signal(4, name=f"lower_{i}", reset_less=True),
            Signal(name=f"sign_{i}", reset_less=True),
            Signal(signed(WEIGHT_BITS), name=f"upper_{i}", reset_less=True),
        )
        nibble = kept[4 * i : 4 * i + 4]
        first = integer(m, nibble, self.format, 0, f"first_{i}", self.formats)
        second = integer(m, self.beat[4 * i : 4 * i + 4], self.format, 1, f"second_{i}", self.formats)
        with m.If(self.second):
            m.d.sync += [lower.eq(first[:4]), sign.eq(first[4]), upper.eq(second - first[4])]
        held = delay(m, Cat(lower, sign, upper), 2, f"held_{i}")
        weight = Cat(held[:5], held[4].replicate(distance - 5), held[5:]).as_signed()
        k = i % self.quarter
        element = self.element[bits * k : bits * (k + 1)].as_signed()
        activation = self.activation[bits * i : bits * (i + 1)].as_signed()
        wide, narrow = Signal(signed(distance + WEIGHT_BITS), name=f"wide_{i}"), Signal(signed(bits), name=f"narrow_{i}")
        operand = Mux(self.keys, element, weight)
        if i < self.quarter:
            m.d.comb += [
                wide.eq(Mux(self.values, self.probability, operand)),
                narrow.eq(Mux(self.values, element, activation)),
            ]
        else:
            m.d.comb += [wide.eq(operand), narrow.eq(activation)]
        return multiply(m, self.primitive, wide, narrow, f"product_{i}", self.library)

    def _sum(self, m: Module, products: list[Value]) -> None:
        distance, quarter = spacing(self.bits), self.quarter
        quarters: list[list[Value]] = []
        for name, halves in (
            ("lower", [p[:distance] for p in products]),
            ("upper", [p[distance:].as_signed() for p in products]),
            ("negative", [p[distance - 1] for p in products]),
        ):
            quarters.append(
                [adder_tree(m, halves[q * quarter : (q + 1) * quarter], f"{name}_{q}_")[0] for q in range(QUERY_LANES)]
            )
        bits = self.dot_bits(self.lanes, self.bits)
        for q in range(QUERY_LANES):
            low, high = quarters[0][q], quarters[1][q]
            m.d.comb += self.dots[bits * q : bits * (q + 1)].eq(Cat(low[:distance], (high + low[distance:])[: bits - distance]))
        low, high, count = (
            adder_tree(m, parts, f"{n}_")[0] for n, parts in zip(("lower", "upper", "negative"), quarters, strict=True)
        )
        m.d.sync += [self.lower.eq(low - (count << distance)), self.upper.eq(high + count)]
