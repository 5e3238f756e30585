"""Numbers inside attention: halves aligned to an exponent, scores in the order of integers. All combinational."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from hw.arithmetic.pipeline import negate_if
from skipopu.numerics.align import ALIGNED_BITS


def align_half(m: Module, half: Value, exponent: Value, name: str) -> Value:
    """Mantissa of an FP16 pattern under a shared exponent field, nearest even: signed 18 bits, combinational."""
    own = Mux(half[10:15] == 0, 1, half[10:15])
    distance = Signal(5, name=f"{name}_distance")
    m.d.comb += distance.eq(exponent - own)
    wide = Signal(17 + 19, name=f"{name}_wide")
    reach = Mux(distance > 19, 19, distance)[:5]
    # 11-bit mantissa with six zeros below, over 2^distance
    m.d.comb += wide.eq(Cat(Const(0, 19 + 6), half[:10], half[10:15] != 0) >> reach)
    kept, guard, sticky = wide[19:], wide[18], wide[:18].any()
    magnitude = Signal(17, name=f"{name}_magnitude")
    m.d.comb += magnitude.eq(kept + (guard & (sticky | kept[0])))
    result = Signal(signed(ALIGNED_BITS), name=f"{name}_aligned")
    m.d.comb += result.eq(negate_if(half[15], magnitude))
    return result


def order_key(x: Value) -> Value:
    """Unsigned integer in the order of FP32 numbers; 0 is below every finite number."""
    return Mux(x[31], ~x, x | (1 << 31))[:32]


def from_key(key: Value) -> Value:
    """The inverse of :func:`order_key`."""
    return Mux(key[31], key ^ (1 << 31), ~key)[:32]
