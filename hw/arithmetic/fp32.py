"""FP32 multiplier, adder and integer conversion, bit for bit as :mod:`skipopu.numerics.fp32`.

None has back-pressure; ``valid`` only gates ``saturated``.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from hw.arithmetic.pipeline import delay_valid, negate_if
from hw.component import Component, given, gives
from skipopu.machine import pipeline

EXPONENT = signed(12)
MAX_MAGNITUDE = 0x7F7FFFFF


def round_and_pack(m: Module, sign: Value, exponent: Value, normalised: Value, zero: Value, name: str) -> tuple[Value, Value]:
    """Rounds a normalised magnitude (leading one at the top bit) to FP32, nearest even.

    ``exponent`` is the biased exponent of the top bit, signed; below 1 flushes to zero, above 254 saturates.

    Returns:
        (32-bit pattern, saturated).
    """
    width = len(normalised)
    assert width >= 26
    kept = normalised[width - 24 :]
    guard, sticky = normalised[width - 25], normalised[: width - 25].any()
    up = guard & (sticky | kept[0])
    rounded = Signal(25, name=f"{name}_rounded")
    final = Signal(signed(len(exponent) + 1), name=f"{name}_exponent")
    m.d.comb += [rounded.eq(kept + up), final.eq(exponent + rounded[24])]
    flush = zero | (exponent < 1)
    saturated = ~flush & (final > 254)
    magnitude = Mux(flush, 0, Mux(saturated, MAX_MAGNITUDE, Cat(Mux(rounded[24], 0, rounded[:23]), final[:8])))
    return Cat(magnitude[:31], sign), saturated


def normalise(m: Module, value: Value, name: str) -> tuple[Value, Value]:
    """(value shifted left until its top bit is set, number of shifts); zero stays zero."""
    width = len(value)
    count = Signal((width - 1).bit_length(), name=f"{name}_zeros")
    current: Value = value
    taken: list[Value] = []
    for k in reversed(range((width - 1).bit_length())):
        step = 1 << k
        empty = ~current[max(0, width - step) :].any()
        shifted = Signal(width, name=f"{name}_shifted{step}")
        m.d.comb += shifted.eq(Mux(empty, current << step, current))
        current = shifted
        taken.append(empty)
    m.d.comb += count.eq(Cat(*reversed(taken)))
    return current, count


class Multiply(Component):
    """z = a * b.

    Latency: 2 cycles. Throughput: a product per cycle.
    """

    LATENCY = pipeline.MULTIPLY

    def __init__(self) -> None:
        self.a = given(32, "one factor")
        self.b = given(32, "the other")
        self.z = gives(32, "their product")
        self.valid = given(1, "the factors count")
        self.saturated = gives(1, "with the product: it was too large")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product, exponent, sign, zero = Signal(48), Signal(EXPONENT), Signal(), Signal()
        ea, eb = self.a[23:31], self.b[23:31]
        m.d.sync += [
            product.eq(Cat(self.a[:23], Const(1, 1)) * Cat(self.b[:23], Const(1, 1))),
            exponent.eq(ea + eb - 127),
            sign.eq(self.a[31] ^ self.b[31]),
            zero.eq((ea == 0) | (eb == 0)),
        ]
        high = product[47]
        normal = Mux(high, product, product << 1)[:48]
        pattern, saturated = round_and_pack(m, sign, (exponent + high).as_signed(), normal, zero, "product")
        m.d.sync += [self.z.eq(pattern), self.saturated.eq(saturated & delay_valid(m, self.valid, 1))]
        return m


class Add(Component):
    """z = a + b, or a - b.

    Latency: 3 cycles. Throughput: a sum per cycle.
    """

    LATENCY = pipeline.ADD

    def __init__(self) -> None:
        self.a = given(32, "first term")
        self.b = given(32, "second term")
        self.z = gives(32, "their sum or difference")
        self.subtract = given(1, "the difference is wanted")
        self.valid = given(1, "the terms count")
        self.saturated = gives(1, "with the sum: it was too large")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        b = Cat(self.b[:31], self.b[31] ^ self.subtract)
        swap = b[:31] > self.a[:31]
        large, small = Mux(swap, b, self.a), Mux(swap, self.a, b)
        # 1: order by magnitude
        big, little = Signal(24), Signal(24)
        exponent, distance = Signal(8), Signal(8)
        sign, minus, both_zero_sign = Signal(), Signal(), Signal()
        m.d.sync += [
            big.eq(Mux(large[23:31] == 0, 0, Cat(large[:23], Const(1, 1)))),
            little.eq(Mux(small[23:31] == 0, 0, Cat(small[:23], Const(1, 1)))),
            exponent.eq(large[23:31]),
            distance.eq(large[23:31] - small[23:31]),
            sign.eq(large[31]),
            minus.eq(large[31] ^ small[31]),
            both_zero_sign.eq(self.a[31] & b[31]),
        ]
        # 2: align and add, three extra bits below; the last is sticky
        reach = Mux(distance > 26, 26, distance)[:5]
        wide = Cat(Const(0, 26), little) >> reach
        aligned = Signal(27)
        m.d.comb += aligned.eq(Cat(wide[:24].any(), wide[24:50]))
        total = Signal(28)
        exponent2, sign2, zero_sign2 = Signal(8), Signal(), Signal()
        extended = Cat(Const(0, 3), big)
        m.d.sync += [
            total.eq(extended + (Cat(aligned, Const(0, 1)) ^ minus.replicate(28)) + minus),
            exponent2.eq(exponent),
            sign2.eq(sign),
            zero_sign2.eq(both_zero_sign),
        ]
        # 3: normalise and round
        normal, zeros = normalise(m, total, "total")
        exact_zero = ~total.any()
        result_sign = Mux(exact_zero, zero_sign2, sign2)
        exponent_top = Signal(EXPONENT)
        m.d.comb += exponent_top.eq(exponent2 + 1 - zeros)
        pattern, saturated = round_and_pack(m, result_sign, exponent_top, normal, exact_zero, "sum")
        m.d.sync += [self.z.eq(pattern), self.saturated.eq(saturated & delay_valid(m, self.valid, 2))]
        return m


class FromInteger(Component):
    """z = mantissa * 2^exponent, rounded once.

    Latency: 3 cycles. Throughput: a number per cycle.

    Parameters:
        width: bits of the mantissa, sign included.
    """

    LATENCY = pipeline.FROM_INTEGER

    def __init__(self, width: int) -> None:
        self.mantissa = given(signed(width), "the integer")
        self.exponent = given(EXPONENT, "power of two that it counts")
        self.valid = given(1, "it counts")
        self.saturated = gives(1, "with the number: it was too large")
        self.z = gives(32, "the number")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = max(len(self.mantissa), 27)
        magnitude, sign, exponent = Signal(width), Signal(), Signal(EXPONENT)
        negative = self.mantissa[-1]
        m.d.sync += [
            magnitude.eq(negate_if(negative, self.mantissa)),
            sign.eq(negative),
            exponent.eq(self.exponent),
        ]
        shifted, zeros = normalise(m, magnitude, "magnitude")
        normal, sign2, exponent2, zero2 = Signal(width), Signal(), Signal(EXPONENT), Signal()
        m.d.sync += [
            normal.eq(shifted),
            sign2.eq(sign),
            exponent2.eq(exponent + (127 + width - 1) - zeros),
            zero2.eq(~magnitude.any()),
        ]
        pattern, saturated = round_and_pack(m, sign2 & ~zero2, exponent2, normal, zero2, "number")
        m.d.sync += [self.z.eq(pattern), self.saturated.eq(saturated & delay_valid(m, self.valid, 2))]
        return m


def half_word_to_fp32(m: Module, half: Value, name: str) -> Value:
    """FP32 pattern of an FP16 pattern (no infinities or NaNs), subnormals exact; combinational."""
    fraction, exponent = half[:10], half[10:15]
    normal, zeros = normalise(m, fraction, name)
    subnormal_exponent = Signal(8, name=f"{name}_exponent")
    m.d.comb += subnormal_exponent.eq(112 - zeros)
    small = Cat(Const(0, 14), normal[:9], Mux(fraction.any(), subnormal_exponent, 0))
    large = Cat(Const(0, 13), fraction, (exponent + 112)[:8])
    return Cat(Mux(exponent == 0, small, large)[:31], half[15])


def fp32_to_half_word(m: Module, x: Value, name: str) -> tuple[Value, Value]:
    """(FP16 pattern nearest even, subnormals honoured, saturated to 65504; saturated); combinational."""
    exponent = x[23:31]
    mantissa = Cat(x[:23], exponent != 0)  # 24 bits
    # Subnormal results shift further: at exponent e < 113 by 113 - e more.
    extra = Signal(8, name=f"{name}_extra")
    m.d.comb += extra.eq(Mux(exponent < 113, 113 - exponent, 0))
    reach = Mux(extra > 13, 13, extra)[:4]
    wide = Signal(37, name=f"{name}_wide")
    m.d.comb += wide.eq(Cat(Const(0, 13), mantissa) >> reach)
    kept, guard, sticky = wide[26:37], wide[25], wide[:25].any()
    base = Signal(16, name=f"{name}_base")
    # The hidden bit adds one to the exponent field: start one below.
    m.d.comb += base.eq(
        Cat(kept, Const(0, 5)) + (Mux(exponent < 113, 0, exponent - 113)[:5] << 10) + (guard & (sticky | kept[0]))
    )
    saturated = (exponent > 142) | (base >= 0x7C00)
    return Cat(Mux(saturated, 0x7BFF, base[:15])[:15], x[31]), saturated


def order(x: Value) -> Value:
    """Unsigned 32-bit integer in the order of the numbers, both zeros equal, never 0; combinational."""
    return Mux(x[:31] == 0, 1 << 31, Mux(x[31], ~x, x | (1 << 31)))[:32]
