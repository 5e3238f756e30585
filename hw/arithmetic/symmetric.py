"""Functions with f(-x) = 1 - f(x), by :func:`skipopu.numerics.tables.symmetric`."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike

from hw.arithmetic.fp32 import FromInteger
from hw.arithmetic.pipeline import delay
from hw.arithmetic.quadratic import Quadratic
from skipopu.machine import pipeline
from skipopu.numerics.tables import OUTPUT_BITS, SIGMOID, SYMMETRIC_FRACTION_BITS, QuadraticTable

LATENCY = pipeline.SYMMETRIC


def symmetric(m: Module, argued: Value, tables: Sequence[QuadraticTable], which: ValueLike, block: bool = False) -> Value:
    """FP32 of table ``which`` at FP32 ``argued``, ``LATENCY`` cycles later; a value per cycle. ``block``: tables in block RAM."""
    m.submodules.table = table = Quadratic(tables, block)
    exponent = argued[23:31]
    top = 127 + SIGMOID.argument_bits - SYMMETRIC_FRACTION_BITS - 1  # largest biased exponent below the tables' end
    argument = Signal(SIGMOID.argument_bits)
    with m.If(exponent > top):
        m.d.sync += argument.eq((1 << SIGMOID.argument_bits) - 1)
    with m.Else():
        right = Mux(top - exponent > 31, 31, top - exponent)[:5]
        m.d.sync += argument.eq(Mux(exponent == 0, 0, Cat(argued[:23], Const(1, 1)) >> right))
    m.d.comb += [table.u.eq(argument), table.select.eq(which)]
    m.submodules.convert = convert = FromInteger(OUTPUT_BITS + 2)
    negative = delay(m, argued[31], 1 + Quadratic.LATENCY, "negative")
    m.d.comb += [
        convert.mantissa.eq(Mux(negative, (1 << OUTPUT_BITS) - table.y, table.y)),
        convert.exponent.eq(-OUTPUT_BITS),
    ]
    return convert.z
