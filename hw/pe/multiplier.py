"""The multiplier primitives: 27 x 18 (DSP48E2) and 18 x 18 (ECP5 MULT18X18D), with the same bits."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed

from hw.arithmetic.pipeline import registered
from hw.block import BlockUnit
from hw.component import given, gives
from hw.library import Library
from hw.pe.dsp48e2 import NARROW_BITS, RESULT_BITS, WIDE_BITS, dsp48e2
from skipopu.machine import pipeline

LATENCY = 1 + pipeline.MULTIPLIER  # operands' registers, the multiplier's, the output's
SPLIT = 17  # lower bits of a wide operand, as a non-negative 18-bit number


class Product(BlockUnit):
    """``wide`` times ``narrow``, exact: DSP48E2 with its registers, or the same described.

    Latency: LATENCY cycles. Throughput: a product per cycle.

    Parameters:
        wide: bits of one operand.
        narrow: of the other one.
        instance: an instance of the block.
    """

    def __init__(self, wide: int, narrow: int, instance: bool = False) -> None:
        assert wide <= WIDE_BITS
        assert narrow <= NARROW_BITS
        self.shape, self.instance = (wide, narrow), instance
        self.wide = given(signed(wide), "operand")
        self.narrow = given(signed(narrow), "the other one")
        self.product = gives(signed(wide + narrow), "what they make, every bit of it")
        super().__init__()

    def instantiated(self) -> Product:
        return Product(*self.shape, instance=True)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.instance:
            total = Signal(signed(RESULT_BITS))
            held: dict[str, int] = dict.fromkeys(("AREG", "ACASCREG", "BREG", "BCASCREG", "MREG", "PREG"), 1)
            m.submodules.dsp = dsp48e2(held, self.wide, self.narrow, total)
            m.d.comb += self.product.eq(total)
            return m
        wide, narrow = registered(m, self.wide, "a"), registered(m, self.narrow, "b")
        m.d.comb += self.product.eq(registered(m, registered(m, wide * narrow, "m"), "p"))
        assert LATENCY == 3
        return m


def multiply(m: Module, primitive: str, wide: Value, narrow: Value, name: str, library: Library | None = None) -> Value:
    """``wide`` (signed, up to 27 bits) times ``narrow`` (signed, up to 18 bits), exact, LATENCY cycles later.

    ``primitive`` "27x18" is one multiplier, in ``library`` one module for all; "18x18" is two, of the wide operand's lower and upper bits,
    and an adder.
    """
    bits = len(wide) + len(narrow)
    if primitive == "27x18":

        def build() -> Product:
            return Product(len(wide), len(narrow))

        m.submodules[name] = unit = library.use(f"product_{len(wide)}x{len(narrow)}", build, name) if library else build()
        m.d.comb += [unit.wide.eq(wide), unit.narrow.eq(narrow)]
        return unit.product
    wide, narrow = registered(m, wide, f"{name}_wide"), registered(m, narrow, f"{name}_narrow")
    lower = registered(m, Cat(wide[:SPLIT], Const(0, 1)).as_signed() * narrow, f"{name}_lower")
    upper = registered(m, wide[SPLIT:].as_signed() * narrow, f"{name}_upper")
    total = Cat(lower[:SPLIT], (upper + lower[SPLIT:].as_signed())[: bits - SPLIT])
    return registered(m, total, f"{name}_p").as_signed()
