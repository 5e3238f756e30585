"""A multiplier that adds up its own products: DSP48E2 with all its registers, or the same described."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal, Value, signed

from hw.arithmetic.pipeline import delay, registered
from hw.block import BlockUnit
from hw.component import given, gives
from hw.pe.dsp48e2 import NARROW_BITS, WIDE_BITS, dsp48e2
from skipopu.machine import pipeline
from skipopu.numerics.accumulate import WIDTH


class Multiplier(BlockUnit):
    """The sum of products of ``narrow`` and ``wide``, or of ``narrow`` and ``other`` where ``choose``.

    Latency: pipeline.STEP_SUM cycles from ``narrow``, ``other`` and ``choose`` to ``total``, one more from ``wide``, one from ``valid``
    and ``more``. Throughput: a product per cycle.

    Parameters:
        wide: bits of one operand.
        narrow: of the other one.
        other: of what takes the place of the wide one; 0 if nothing does.
        instance: an instance of the block.
    """

    def __init__(self, wide: int, narrow: int, other: int = 0, instance: bool = False) -> None:
        assert max(wide, other) <= WIDE_BITS
        assert narrow <= NARROW_BITS
        self.shape, self.instance = (wide, narrow, other), instance
        self.wide = given(signed(wide), "operand, a cycle before the others")
        if other:
            self.other = given(signed(other), "what takes its place")
            self.choose = given(1, "the other operand")
        self.narrow = given(signed(narrow), "what either is multiplied with")
        self.valid = given(1, "add a product, a cycle before its sum")
        self.more = given(1, "to the sum so far, else it is the first one, with that")
        self.total = gives(signed(WIDTH), "the sum, modulo its width")
        super().__init__()

    def instantiated(self) -> Multiplier:
        return Multiplier(*self.shape, instance=True)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.instance:
            m.submodules.dsp = self._instance()
            return m
        operand: Value = delay(m, self.wide, 2, "a")
        if self.shape[2]:
            operand = Mux(registered(m, self.choose, "inmode"), registered(m, self.other, "d"), operand)
        operand = registered(m, operand, "ad")
        product = registered(m, operand.as_signed() * delay(m, self.narrow, 2, "b").as_signed(), "m")
        total = Signal(signed(WIDTH), name="p", reset_less=True)
        with m.If(self.valid):
            m.d.sync += total.eq(Mux(self.more, total, 0) + product)
        m.d.comb += self.total.eq(total)
        assert pipeline.STEP_SUM == 4
        return m

    def _instance(self) -> Instance:
        """All registers but those of the controls: what chooses the operand is what the sum in front of the multiplier leaves out (UG579,
        INMODE). No free model of the block is at hand: tests run the described form."""
        other, choose = (self.other, self.choose) if self.shape[2] else (Const(0, 1), Const(0, 1))
        held: dict[str, int] = dict.fromkeys(("AREG", "ACASCREG", "BREG", "BCASCREG"), 2)
        held |= dict.fromkeys(("DREG", "ADREG", "MREG", "PREG", "INMODEREG"), 1)
        inmode = Cat(Const(0, 1), choose, choose, Const(0, 2))
        return dsp48e2(held, self.wide, self.narrow, self.total, other=other, inmode=inmode, more=self.more, enable=self.valid)
