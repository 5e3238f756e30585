"""Numbers inside attention: halves aligned to an exponent, scores in the order of integers."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hw.arithmetic.fp32 import lowest
from hw.arithmetic.pipeline import registered
from skipopu.numerics.align import ALIGNED_BITS


def align_half(m: Module, half: Value, exponent: Value, name: str) -> Value:
    """Mantissa of an FP16 pattern under a shared exponent field, nearest even: signed 18 bits, two cycles later."""
    own = Mux(half[10:15] == 0, 1, half[10:15])
    reach = registered(m, (exponent - own)[:5], f"{name}_reach")
    fraction = registered(m, Cat(half[:10], half[10:15] != 0), f"{name}_fraction")
    negative = registered(m, half[15], f"{name}_negative")
    # 11-bit mantissa with six zeros below, over 2^reach
    kept = Signal(17, name=f"{name}_kept")
    m.d.comb += kept.eq(Cat(Const(0, 6), fraction) >> reach)
    guard = Cat(Const(0, 7), fraction, Const(0, 14)).bit_select(reach, 1)
    sticky = (fraction & lowest(reach, 18)[7:]).any()
    # No mantissa is rounded beyond its bits. -(kept + up) = ~kept + (1 - up): one carry chain rounds and negates.
    up = guard & (sticky | kept[0])
    aligned = (Cat(kept, Const(0, 1)) ^ negative.replicate(ALIGNED_BITS)) + (up ^ negative)
    return registered(m, aligned[:ALIGNED_BITS].as_signed(), f"{name}_aligned")


def order_key(x: Value) -> Value:
    """Unsigned integer in the order of FP32 numbers; 0 is below every finite number."""
    return Mux(x[31], ~x, x | (1 << 31))[:32]


def from_key(key: Value) -> Value:
    """The inverse of :func:`order_key`."""
    return Mux(key[31], key ^ (1 << 31), ~key)[:32]
