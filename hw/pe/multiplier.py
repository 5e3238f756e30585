"""The multiplier primitives: 27 x 18 (DSP48E2) and 18 x 18 (ECP5 MULT18X18D), with the same bits."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Value

from hw.arithmetic.pipeline import registered
from skipopu.machine import pipeline

LATENCY = pipeline.MULTIPLIER  # the primitive's multiplier and output registers; operands come from registers
SPLIT = 17  # lower bits of a wide operand, as a non-negative 18-bit number


def multiply(m: Module, primitive: str, wide: Value, narrow: Value, name: str) -> Value:
    """``wide`` (signed, up to 27 bits) times ``narrow`` (signed, up to 18 bits), exact, LATENCY cycles later.

    ``primitive`` "27x18" is one multiplier; "18x18" is two, of the wide operand's lower and upper bits, and an adder.
    """
    if primitive == "27x18":
        return registered(m, registered(m, wide * narrow, f"{name}_m"), f"{name}_p")
    bits = len(wide) + len(narrow)
    lower = registered(m, Cat(wide[:SPLIT], Const(0, 1)).as_signed() * narrow, f"{name}_lower")
    upper = registered(m, wide[SPLIT:].as_signed() * narrow, f"{name}_upper")
    total = Cat(lower[:SPLIT], (upper + lower[SPLIT:].as_signed())[: bits - SPLIT])
    return registered(m, total, f"{name}_p").as_signed()
