"""Two FP16 mantissa products from one multiplier."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hw.arithmetic.fp32 import FromInteger
from hw.arithmetic.pipeline import adder_tree, delay, negate_if, pipelined_tree, registered, tree
from hw.component import given, gives
from hw.pe.multiplier import LATENCY, multiply
from hw.pe.variants.variant import Variant
from skipopu.numerics import half


class HalfDot(Variant):
    """Two sums of FP16 products that share one operand: :func:`skipopu.numerics.half.overpacked` and ``truncated``.

    One multiplier per lane.

    Latency: ``latency`` cycles. Throughput: a set of operands per cycle.

    Parameters:
        lanes: products of each sum.
        truncated: mantissas lose bits, so that the two products overlap less.
    """

    def __init__(self, lanes: int, truncated: bool) -> None:
        self.lanes, self.truncated = lanes, truncated
        depth = (lanes - 1).bit_length()
        self.latency = 1 + max(1 + depth, LATENCY) + 2 + depth + FromInteger.LATENCY
        self.shared = given(16 * lanes, "the operand that both sums share")
        self.first = given(16 * lanes, "the first sum's other operand")
        self.second = given(16 * lanes, "the second sum's")
        self.sums = [gives(32, f"FP32 sum {k}") for k in range(2)]
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cut = half.TRUNCATED_BITS if self.truncated else 0
        space = half.TRUNCATED_SPACING if self.truncated else half.OVERPACKED_SPACING
        bits = half.PRODUCT_BITS - cut
        overlap = bits - space
        exponents: list[list[Value]] = [[], []]
        terms: list[list[tuple[Value, Value]]] = [[], []]
        depth = (self.lanes - 1).bit_length()
        at_product = 1 + LATENCY  # operands, multiplier
        at_largest = 1 + 1 + depth  # operands, exponent sums, tree
        at = max(at_product, at_largest)
        for i in range(self.lanes):
            words = [
                registered(m, w[16 * i : 16 * i + 16], f"{n}_{i}")
                for n, w in (("a", self.shared), ("b0", self.first), ("b1", self.second))
            ]
            mantissas = [Cat(w[:10], w[10:15] != 0) for w in words]
            fields = [Mux(w[10:15] == 0, 1, w[10:15]) for w in words]
            packed = [b[cut:] for b in mantissas[1:]]
            wide, narrow = (Cat(value, Const(0, 1)).as_signed() for value in (half_pack(packed, space), mantissas[0]))
            product = multiply(m, "27x18", wide, narrow, f"product_{i}")
            # The upper product's low bits once more, from AND rows: an operator would cost a second multiplier.
            low_a, low_b = mantissas[0][:overlap], packed[1][:overlap]
            rows = [(low_b & low_a[j].replicate(overlap)) << j for j in range(overlap)]
            low = delay(m, tree(rows, lambda a, b: (a + b)[:overlap])[:overlap], LATENCY, f"low_{i}")
            middle = (product[space : space + overlap] - low)[:overlap]
            lower = Cat(product[:space], middle)
            # What overflowed from the lower product's top bits into the rest of the upper one is taken back.
            borrow = product[space : space + overlap] < low
            upper = Cat(low, (product[bits : bits + space] - borrow)[: bits - overlap])
            for k, value in enumerate((lower, upper)):
                exponents[k].append(registered(m, fields[0] + fields[1 + k], f"exponent_{k}_{i}"))
                sign = delay(m, words[0][15] ^ words[1 + k][15], at - 1, f"sign_{k}_{i}")
                terms[k].append((delay(m, value, at - at_product, f"value_{k}_{i}"), sign))
        for k in range(2):
            largest, _ = pipelined_tree(m, exponents[k], lambda a, b: Mux(a > b, a, b), f"largest_{k}_")
            largest = delay(m, largest, at - at_largest, f"largest_{k}_d")
            shifted = []
            for i, (value, sign) in enumerate(terms[k]):
                distance = largest - delay(m, exponents[k][i], at - 2, f"own_{k}_{i}")
                reach = Signal(5, name=f"reach_{k}_{i}")
                m.d.comb += reach.eq(Mux(distance[:6] > 31, 31, distance[:6]))
                field = registered(m, Cat(Const(0, half.FIELD_BITS - bits), value) >> reach, f"field_{k}_{i}")
                shifted.append(registered(m, negate_if(delay(m, sign, 1, f"s_{k}_{i}"), field), f"term_{k}_{i}"))
            total, _ = adder_tree(m, shifted, f"total_{k}_")
            m.submodules[f"convert_{k}"] = convert = FromInteger(len(total))
            bias = 50 + half.FIELD_BITS - half.PRODUCT_BITS
            m.d.comb += [
                convert.mantissa.eq(total),
                convert.exponent.eq(delay(m, largest, 2 + depth, f"scale_{k}") - bias),
                self.sums[k].eq(convert.z),
            ]
        return m


def half_pack(mantissas: list[Value], space: int) -> Value:
    """Both mantissas in one operand, the second ``space`` above the first."""
    first, second = mantissas
    return Cat(first, Const(0, space - len(first)), second)
