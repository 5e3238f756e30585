"""A multiply-add in FP16."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed

from hw.arithmetic.fp32 import normalise
from hw.arithmetic.pipeline import delay, registered
from hw.component import given, gives
from hw.pe.multiplier import LATENCY, multiply
from hw.pe.variants.variant import Variant


class HalfMultiplyAdd(Variant):
    """z = round(c + round(a * b)) in FP16: one lane of :func:`skipopu.numerics.half.multiply_add`.

    Latency: ``latency`` cycles from a and b, which come ``LATENCY_C`` cycles before c. Throughput: an operation per cycle.
    """

    LATENCY_C = LATENCY + 1
    latency = LATENCY_C + 3

    def __init__(self) -> None:
        self.a = given(16, "a factor")
        self.b = given(16, "the other")
        self.c = given(16, "what is added, later")
        self.z = gives(16, "the result")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = (registered(m, w, n) for n, w in (("a_1", self.a), ("b_1", self.b)))
        wide, narrow = (Cat(w[:10], Const(1, 2)).as_signed() for w in (self.a, self.b))
        product = multiply(m, "27x18", wide, narrow, "product")
        zero = delay(m, (a[10:15] == 0) | (b[10:15] == 0), LATENCY - 1, "zero")
        exponent = delay(m, (a[10:15] + b[10:15]), LATENCY - 1, "exponent")
        sign = delay(m, a[15] ^ b[15], LATENCY - 1, "sign")
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
