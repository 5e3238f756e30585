"""The tokens of a window with the largest differences."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal

from hw.arithmetic.fp32 import order
from hw.component import Component, given, gives
from hw.control.lists import ones
from skipopu.policy import WINDOW


class Window(Component):
    """Compares each token with those before it in its window; of equal ones the earlier is the larger.

    Latency: 1 cycle from a token to ``bits``, none from ``keep``. Throughput: a token per cycle, in the order of their places.
    """

    def __init__(self) -> None:
        self.clear = given(1, "another window begins, for a cycle")
        self.valid = given(1, "a token")
        self.place = given(range(WINDOW), "its place in the window")
        self.difference = given(32, "its difference, FP32")
        self.keep = given(range(WINDOW), "how many of a whole window execute")
        self.bits = gives(WINDOW, "which execute were these all: the largest, of fewer as large a share, rounded up")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        present, own = Signal(WINDOW), order(self.difference)
        numbers = [Signal(32, name=f"number_{k}") for k in range(WINDOW)]
        larger = [Signal(range(WINDOW), name=f"larger_{k}") for k in range(WINDOW)]  # how many are
        behind = Signal(WINDOW)
        m.d.comb += [behind.eq(Cat(own > number for number in numbers) & present)]
        share, count = Signal(range(WINDOW * WINDOW)), Signal(range(WINDOW + 1))
        with m.If(self.valid):
            m.d.sync += count.eq(ones(present | (1 << self.place)))
        m.d.comb += share.eq(self.keep * count)
        for k, (number, rank) in enumerate(zip(numbers, larger, strict=True)):
            m.d.comb += self.bits[k].eq(present[k] & (rank * WINDOW < share))
            with m.If(self.valid & (self.place == k)):
                m.d.sync += [number.eq(own), rank.eq(ones(present & ~behind)), present[k].eq(1)]
            with m.Elif(self.valid & behind[k]):
                m.d.sync += rank.eq(rank + 1)
        with m.If(self.clear):
            m.d.sync += [present.eq(0), count.eq(0)]
        return m
