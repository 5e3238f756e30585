"""The machine's own arithmetic: packed INT4 products of aligned numbers, rounded once."""

from __future__ import annotations

from amaranth.hdl import Module

from hw.arithmetic.fp32 import FromInteger
from hw.arithmetic.pipeline import delay
from hw.component import given, gives, pass_on, passes
from hw.pe.dot import PackedDot
from hw.pe.variants.variant import Variant
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS
from skipopu.numerics.formats import INT4, INT8


class AlignedDot(Variant):
    """A :class:`hw.pe.dot.PackedDot` of ``bits`` bits with the rounding of its two sums: what the slice does, on its own.

    Latency: ``latency`` cycles from the activation. Throughput: a set of operands per cycle.

    Parameters:
        lanes: multipliers.
        bits: of aligned numbers.
    """

    def __init__(self, lanes: int, bits: int = ALIGNED_BITS) -> None:
        self.inner = dot = PackedDot(lanes, "27x18", (INT4, INT8), bits)
        self.latency = dot.latency + FromInteger.LATENCY
        self.dot = passes(dot, without=[dot.lower, dot.upper])
        self.exponent = given(8, "of the activations, with them")
        self.sums = [gives(32, f"FP32 sum of member {k}'s products") for k in range(2)]
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dot = dot = self.inner
        pass_on(m, dot, self.dot)
        dropped = ALIGNED_BITS - dot.bits
        exponent = delay(m, self.exponent, dot.latency, "exponent")
        for k, total in enumerate((dot.lower, dot.upper)):
            m.submodules[f"convert_{k}"] = convert = FromInteger(len(total))
            m.d.comb += [
                convert.mantissa.eq(total),
                convert.exponent.eq(exponent - (ALIGNED_BIAS - dropped)),
                self.sums[k].eq(convert.z),
            ]
        return m
