"""Units that the machine does not use, for comparison: FP16 mantissa products packed in pairs, and FP16 multiply-adds."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal, Value, signed

from hw.arithmetic.fp32 import FromInteger, normalise
from hw.arithmetic.pipeline import adder_tree, delay, negate_if, pipelined_tree, registered, tree
from hw.pe.dot import PackedDot
from hw.pe.multiplier import LATENCY, multiply
from skipopu.numerics import half
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS


class AlignedDot(Elaboratable):
    """A :class:`PackedDot` of ``bits`` bits with the rounding of its two sums: what the slice does, on its own.

    Attributes: beat, first, second, activation, exponent (with the activation): in. sums: two FP32 patterns, out,
    ``latency`` cycles after the activation.
    """

    def __init__(self, lanes: int, bits: int = ALIGNED_BITS) -> None:
        self.dot = PackedDot(lanes, "27x18", bits)
        self.exponent = Signal(8)
        self.sums = [Signal(32, name=f"sum_{k}") for k in range(2)]
        self.latency = self.dot.latency + FromInteger.LATENCY
        self.inputs = {n: getattr(self.dot, n) for n in ("beat", "first", "second", "wide", "activation")}
        self.inputs |= {n: getattr(self.dot, n) for n in ("keys", "values", "element", "probability")}
        self.inputs["exponent"] = self.exponent
        self.outputs = {"sum_0": self.sums[0], "sum_1": self.sums[1], "dots": self.dot.dots, "products": self.dot.products}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dot = self.dot
        dropped = ALIGNED_BITS - self.dot.bits
        exponent = delay(m, self.exponent, self.dot.latency, "exponent")
        for k, total in enumerate((self.dot.lower, self.dot.upper)):
            m.submodules[f"convert_{k}"] = convert = FromInteger(len(total))
            m.d.comb += [
                convert.mantissa.eq(total),
                convert.exponent.eq(exponent - (ALIGNED_BIAS - dropped)),
                self.sums[k].eq(convert.z),
            ]
        return m


class HalfDot(Elaboratable):
    """Two sums of FP16 products that share one operand: :func:`skipopu.numerics.half.overpacked` and ``truncated``.

    One multiplier per lane. Attributes: shared, first, second: in, 16 bits per lane. sums: two FP32 patterns, out,
    ``latency`` cycles later.
    """

    def __init__(self, lanes: int, truncated: bool) -> None:
        self.lanes, self.truncated = lanes, truncated
        self.shared, self.first, self.second = (Signal(16 * lanes, name=n) for n in ("shared", "first", "second"))
        self.sums = [Signal(32, name=f"sum_{k}") for k in range(2)]
        depth = (lanes - 1).bit_length()
        self.latency = 1 + max(1 + depth, 1 + LATENCY) + 2 + depth + FromInteger.LATENCY
        self.inputs = {"shared": self.shared, "first": self.first, "second": self.second}
        self.outputs = {"sum_0": self.sums[0], "sum_1": self.sums[1]}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cut = half.TRUNCATED_BITS if self.truncated else 0
        space = half.TRUNCATED_SPACING if self.truncated else half.OVERPACKED_SPACING
        bits = half.PRODUCT_BITS - cut
        overlap = bits - space
        exponents: list[list[Value]] = [[], []]
        terms: list[list[tuple[Value, Value]]] = [[], []]
        depth = (self.lanes - 1).bit_length()
        at_product = 1 + 1 + LATENCY  # operands, wide operand, multiplier
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
            wide = registered(m, Cat(half_pack(packed, space), Const(0, 1)).as_signed(), f"wide_{i}")
            narrow = registered(m, Cat(mantissas[0], Const(0, 1)).as_signed(), f"narrow_{i}")
            product = multiply(m, "27x18", wide, narrow, f"product_{i}")
            # The upper product's low bits once more, from AND rows: an operator would cost a second multiplier.
            low_a, low_b = mantissas[0][:overlap], packed[1][:overlap]
            rows = [(low_b & low_a[j].replicate(overlap)) << j for j in range(overlap)]
            low = registered(m, tree(rows, lambda a, b: (a + b)[:overlap])[:overlap], f"low_{i}")
            low = delay(m, low, LATENCY, f"low_{i}_d")
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


class HalfMultiplyAdd(Elaboratable):
    """z = round(c + round(a * b)) in FP16: one lane of :func:`skipopu.numerics.half.multiply_add`.

    Attributes: a, b, c (LATENCY_C cycles later than a and b): in; z: out, LATENCY cycles after a and b.
    """

    LATENCY_C = 1 + LATENCY + 1
    LATENCY = LATENCY_C + 3

    def __init__(self) -> None:
        self.a, self.b, self.c, self.z = (Signal(16, name=n) for n in "abcz")
        self.inputs, self.outputs = {"a": self.a, "b": self.b, "c": self.c}, {"z": self.z}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = (registered(m, w, n) for n, w in (("a_1", self.a), ("b_1", self.b)))
        product = multiply(m, "27x18", Cat(a[:10], Const(1, 2)).as_signed(), Cat(b[:10], Const(1, 2)).as_signed(), "product")
        zero = delay(m, (a[10:15] == 0) | (b[10:15] == 0), LATENCY, "zero")
        exponent = delay(m, (a[10:15] + b[10:15]), LATENCY, "exponent")
        sign = delay(m, a[15] ^ b[15], LATENCY, "sign")
        top = product[21]
        mantissa = Mux(top, product[11:21], product[10:20])
        guard, sticky = Mux(top, product[10], product[9]), product[:9].any() | (top & product[9])
        raised = Signal(7)
        m.d.comb += raised.eq(exponent + top)
        rounded = Signal(18)
        m.d.comb += rounded.eq(Cat(mantissa, raised) + (guard & (sticky | mantissa[0])))
        field = rounded[10:17]
        flush, over = zero | (raised <= 15), field > 30 + 15
        p = Signal(16)
        m.d.sync += p.eq(Cat(Mux(flush, 0, Mux(over, 0x7BFF, Cat(rounded[:10], (field - 15)[:5]))), sign))
        # Add: larger magnitude first, three bits below
        c = Mux(self.c[10:15] == 0, self.c & 0x8000, self.c)
        swap = p[:15] < c[:15]
        large, small = Mux(swap, c, p), Mux(swap, p, c)
        one, other, minus, large_sign = Signal(16), Signal(16), Signal(), Signal()
        m.d.sync += [one.eq(large), other.eq(small), minus.eq(large[15] ^ small[15])]
        distance = one[10:15] - other[10:15]
        reach = Signal(4)
        m.d.comb += reach.eq(Mux(distance[:5] > 13, 13, distance[:5]))
        wide = Cat(Const(0, 13), other[:10], other[10:15] != 0) >> reach
        aligned = Cat(wide[:11].any(), wide[11:24])  # 14 bits
        big = Cat(Const(0, 3), one[:10], one[10:15] != 0)
        total, base, cancels = Signal(15), Signal(5), Signal()
        m.d.sync += [
            total.eq(big + (Cat(aligned, Const(0, 1)) ^ minus.replicate(15)) + minus),
            base.eq(one[10:15]),
            large_sign.eq(one[15]),
            cancels.eq(minus),
        ]
        normal, zeros = normalise(m, total, "sum")
        final = Signal(signed(7))
        m.d.comb += final.eq(base + 1 - zeros)
        kept = normal[4:14]
        result = Signal(17)
        m.d.comb += result.eq(Cat(kept, final[:6]) + (normal[3] & (normal[:3].any() | kept[0])))
        nothing = ~total.any()
        tiny = (final <= 0) | nothing
        m.d.sync += self.z.eq(
            Cat(Mux(tiny, 0, Mux(result[10:16] > 30, 0x7BFF, result[:15])), large_sign & ~(nothing & cancels))
        )
        return m
