"""A multiplier that adds up its own results: DSP48E2 with its registers, as it is described."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed

from hw.arithmetic.pipeline import delay, registered
from skipopu.machine import pipeline
from skipopu.numerics.accumulate import WIDTH


def accumulate(m: Module, name: str, wide: tuple[Value, Value, Value], narrow: Value, valid: Value, first: Value) -> Value:
    """The sum, WIDTH bits, of products of ``narrow`` and the first of ``wide``, or its second where the third is set.

    ``valid`` adds a product and ``first`` forgets those before it; they come a cycle before the sum, pipeline.STEP_SUM - 1 behind the operands.
    """
    plain, other, choose = wide
    a, d = registered(m, plain, f"a_{name}"), registered(m, other, f"d_{name}")
    operand = registered(m, Mux(delay(m, choose, 1, f"inmode_{name}"), d, a), f"ad_{name}")
    product = registered(m, operand.as_signed() * delay(m, narrow, 2, f"b_{name}").as_signed(), f"m_{name}")
    total = Signal(signed(WIDTH), name=f"p_{name}", reset_less=True)
    with m.If(valid):
        m.d.sync += total.eq(Mux(first, 0, total) + product)
    assert pipeline.STEP_SUM == 4
    return total
