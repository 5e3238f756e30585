"""FP32 multiplier, adder and integer conversion, bit for bit as :mod:`skipopu.numerics.fp32`.

None has back-pressure; ``valid`` only gates ``saturated``.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed

from hw.arithmetic.pipeline import delay_valid, negate_if
from hw.component import Component, given, gives
from skipopu.machine import pipeline

EXPONENT = signed(12)
MAX_MAGNITUDE = 0x7F7FFFFF
GONE = 26  # places by which a mantissa is shifted until no bit is left but the sticky one


def _registers(*shapes: ShapeLike) -> list[Signal]:
    """What numbers on their way are kept in: ``valid`` says which of them count, so that none needs a reset."""
    return [Signal(shape, name=f"kept_{k}", reset_less=True) for k, shape in enumerate(shapes)]


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
    m.d.comb += rounded.eq(kept + up)
    # Both exponents that the sum may lead to are looked at beside it.
    carried = Signal(signed(len(exponent) + 1), name=f"{name}_carried")
    m.d.comb += carried.eq(exponent + 1)
    over = rounded[24]
    low = zero | (exponent < 1)
    high = Mux(over, carried > 254, exponent > 254)
    packed = Cat(Mux(over, 0, rounded[:23]), Mux(over, carried[:8], exponent[:8]))
    magnitude = Mux(low, 0, Mux(high, MAX_MAGNITUDE, packed))
    return Cat(magnitude[:31], sign), ~low & high


def leading_zeros(m: Module, value: Value, name: str) -> Value:
    """How many zeros stand above the top one bit of ``value``, in halves of halves; combinational, and of no value where there is none."""
    bits = max(2, (len(value) - 1).bit_length())
    padded = Cat(Const(0, (1 << bits) - len(value)), value)

    def of(part: Value) -> tuple[Value, Value]:
        """(no bit of ``part`` is set, zeros above its top one)."""
        nonlocal number
        none, count = Signal(name=f"{name}_none_{number}"), Signal((len(part) - 1).bit_length(), name=f"{name}_zeros_{number}")
        number += 1
        if len(part) == 4:
            _, low, high, top = part
            m.d.comb += [none.eq(~part.any()), count.eq(Cat(Mux(top | high, ~top, ~low), ~(top | high)))]
        else:
            (no_upper, upper), (no_lower, lower) = of(part[len(part) // 2 :]), of(part[: len(part) // 2])
            m.d.comb += [none.eq(no_upper & no_lower), count.eq(Cat(Mux(no_upper, lower, upper)[: len(upper)], no_upper))]
        return none, count

    number = 0
    return of(padded)[1]


def lowest(count: Value, bits: int) -> Value:
    """A mask of the lowest ``count`` of so many bits."""
    return ~(Const(-1, bits) << count)[:bits]


def normalise(m: Module, value: Value, name: str) -> tuple[Value, Value]:
    """(``value`` shifted left until its top bit is set, number of shifts); zero stays zero.

    The count's top bit is known first, so it shifts first.
    """
    count = leading_zeros(m, value, name)
    shifted = value
    for bit in reversed(range(len(count))):
        further = Signal(len(value), name=f"{name}_shifted_{bit}")
        m.d.comb += further.eq(Mux(count[bit], shifted << (1 << bit), shifted))
        shifted = further
    return shifted, count


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
        product, exponent, sign, zero = _registers(48, EXPONENT, 1, 1)
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

    Latency: 4 cycles. Throughput: a sum per cycle.
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
        total, exponent, sign, zero_sign = _aligned_sum(m, self.a, Cat(self.b[:31], self.b[31] ^ self.subtract))
        shifted, zeros = normalise(m, total, "total")
        normal, sign3, exponent3, zero3 = _registers(28, 1, EXPONENT, 1)
        m.d.sync += [
            normal.eq(shifted),
            sign3.eq(Mux(total.any(), sign, zero_sign)),
            exponent3.eq(exponent + 1 - zeros),
            zero3.eq(~total.any()),
        ]
        pattern, saturated = round_and_pack(m, sign3, exponent3, normal, zero3, "sum")
        m.d.sync += [self.z.eq(pattern), self.saturated.eq(saturated & delay_valid(m, self.valid, 3))]
        return m


class AddPositive(Component):
    """z = a + b of numbers that are not negative: no leading ones are lost, so that it is shifted and rounded in one cycle.

    Latency: 3 cycles. Throughput: a sum per cycle.
    """

    LATENCY = pipeline.ADD_POSITIVE

    def __init__(self) -> None:
        self.a = given(31, "first term, without its sign")
        self.b = given(31, "second term")
        self.z = gives(32, "their sum")
        self.valid = given(1, "the terms count")
        self.saturated = gives(1, "with the sum: it was too large")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total, exponent, _, _ = _aligned_sum(m, Cat(self.a, Const(0, 1)), Cat(self.b, Const(0, 1)))
        carried = total[27]
        normal = Mux(carried, total, total << 1)[:28]
        pattern, saturated = round_and_pack(
            m, Const(0, 1), Cat(exponent + carried, Const(0, 1)).as_signed(), normal, ~total[26:].any(), "sum"
        )
        m.d.sync += [self.z.eq(pattern), self.saturated.eq(saturated & delay_valid(m, self.valid, 2))]
        return m


def _aligned_sum(m: Module, a: Value, b: Value) -> tuple[Value, Value, Value, Value]:
    """The first two cycles of ``a + b``: (magnitude with a bit above the larger number's top one and three below its lowest, of which the
    last is sticky; that number's exponent; its sign; the sign of a sum of two zeros)."""
    swap = b[:31] > a[:31]
    large, small = Mux(swap, b, a), Mux(swap, a, b)
    # 1: order by magnitude
    big, little, exponent, reach, sign, minus, both_zero_sign = _registers(24, 24, 8, 5, 1, 1, 1)

    def less(one: Value, other: Value) -> Value:
        """By how much; nothing is left of the smaller number but the sticky bit from some distance on."""
        distance = (one[23:31] - other[23:31])[:8]
        return Mux(distance > GONE, GONE, distance)[:5]

    m.d.sync += [
        big.eq(Mux(large[23:31] == 0, 0, Cat(large[:23], Const(1, 1)))),
        little.eq(Mux(small[23:31] == 0, 0, Cat(small[:23], Const(1, 1)))),
        exponent.eq(large[23:31]),
        reach.eq(Mux(swap, less(b, a), less(a, b))),
        sign.eq(large[31]),
        minus.eq(large[31] ^ small[31]),
        both_zero_sign.eq(a[31] & b[31]),
    ]
    # 2: align and add; what is left of little below the sum's bits is looked for beside the shift
    aligned = Cat(Const(0, 2), little) >> reach
    sticky = (little & lowest(reach, 26)[2:]).any()
    total, exponent2, sign2, zero_sign2 = _registers(28, 8, 1, 1)
    m.d.sync += [
        total.eq(Cat(Const(0, 3), big) + (Cat(sticky, aligned[:26], Const(0, 1)) ^ minus.replicate(28)) + minus),
        exponent2.eq(exponent),
        sign2.eq(sign),
        zero_sign2.eq(both_zero_sign),
    ]
    return total, exponent2, sign2, zero_sign2


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
        negative = self.mantissa[-1]
        # 1: zeros are counted beside the negation, down to the first bit that is not the sign: one too many only for -2^k, which has no
        # ones further down.
        changes = Signal(width)
        m.d.comb += changes.eq(Cat(Const(1, 1), self.mantissa[:-1] ^ self.mantissa[1:]))
        counted = leading_zeros(m, changes, "magnitude")
        magnitude, zeros, sign, exponent = _registers(width, len(counted), 1, EXPONENT)
        m.d.sync += [
            magnitude.eq(negate_if(negative, self.mantissa)),
            zeros.eq(counted),
            sign.eq(negative),
            exponent.eq(self.exponent + (127 + width - 1)),
        ]
        # 2: shifted to the top
        shifted = Signal(width)
        m.d.comb += shifted.eq(magnitude << zeros)
        beyond = shifted[-1]
        less = Cat(~zeros, Const(-1, len(exponent) - len(zeros)))  # -zeros - 1
        total = Cat(Const(1, 1), exponent) + Cat(beyond, less)  # with ``beyond`` as its carry
        normal, sign2, exponent2 = _registers(width, 1, EXPONENT)
        m.d.sync += [
            normal.eq(Cat(Const(0, 1), shifted[:-2], beyond | shifted[-2])),
            sign2.eq(sign),
            exponent2.eq(total[1 : len(exponent) + 1]),
        ]
        pattern, saturated = round_and_pack(m, sign2, exponent2, normal, ~normal[-1], "number")
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
    """(FP16 pattern nearest even, subnormals honoured, saturated to 65504; saturated), a cycle later."""
    low = x[23:31] < 113
    above, below = (x[23:31] - 113)[:8], (113 - x[23:31])[:8]
    mantissa, reach, field, beyond, sign = _registers(24, 4, 5, 1, 1)
    m.d.sync += [
        mantissa.eq(Cat(x[:23], x[23:31] != 0)),
        # Subnormal results shift further: at exponent e < 113 by 113 - e more.
        reach.eq(Mux(low, Mux(below > 13, 13, below), 0)),
        # The hidden bit adds one to the exponent field: start one below.
        field.eq(Mux(low, 0, above)),
        beyond.eq(x[23:31] > 142),
        sign.eq(x[31]),
    ]
    kept, base = Signal(11, name=f"{name}_kept"), Signal(16, name=f"{name}_base")
    m.d.comb += kept.eq(mantissa[13:] >> reach)
    guard = mantissa[12:].bit_select(reach, 1)
    sticky = (mantissa & Cat(Const(-1, 12), lowest(reach, 12))).any()
    m.d.comb += base.eq(Cat(kept, Const(0, 5)) + (field << 10) + (guard & (sticky | kept[0])))
    saturated = beyond | (base >= 0x7C00)
    return Cat(Mux(saturated, 0x7BFF, base[:15])[:15], sign), saturated


def order(x: Value) -> Value:
    """Unsigned 32-bit integer in the order of the numbers, both zeros equal, never 0; combinational."""
    return Mux(x[:31] == 0, 1 << 31, Mux(x[31], ~x, x | (1 << 31)))[:32]
