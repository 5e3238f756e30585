"""Which row has the largest result."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from hw.arithmetic.fp32 import order
from hw.arithmetic.pipeline import tree
from hw.component import Component, given, gives


class Argmax(Component):
    """Row of the largest result since the last ``clear``; ties keep the row that came first, the lower one within a cycle.

    Latency: 1 cycle from results to ``best``. Throughput: ``count`` results per cycle.

    Parameters:
        count: results at once.
    """

    def __init__(self, count: int) -> None:
        self.clear = given(1, "forget the largest; its row stays until a result comes")
        self.enable = given(1, "the valid ones among the results count")
        self.valid = [given(1, f"there is a result {k}") for k in range(count)]
        self.row = [given(32, f"row of result {k}, rising with k") for k in range(count)]
        self.result = [given(32, f"result {k}, FP32") for k in range(count)]
        self.best = gives(32, "row of the largest")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        candidates: list[Value] = [
            Cat(row, Mux(valid, order(result), 0)) for valid, row, result in zip(self.valid, self.row, self.result, strict=True)
        ]
        entry, largest = Signal(64), Signal(32)
        m.d.comb += entry.eq(tree(candidates, lambda a, b: Mux(b[32:] > a[32:], b, a)))
        with m.If(self.clear):
            m.d.sync += largest.eq(0)
        with m.Elif(self.enable & (entry[32:] > largest)):
            m.d.sync += [largest.eq(entry[32:]), self.best.eq(entry[:32])]
        return m
