"""Which row has the largest result."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value

from hw.arithmetic.fp32 import order
from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, pipelined_tree, registered
from hw.component import Component, given, gives
from hw.pe.tokens import FEW
from skipopu.machine import pipeline


class Argmax(Component):
    """Row of each slot's largest result since the last ``clear``; ties keep the row that came first, the lower one within a cycle.

    Latency: ``latency`` cycles from results to ``best``, none from ``asked``. Throughput: ``count`` results of a slot per cycle.

    Parameters:
        count: results at once.
        slots: their number.
    """

    def __init__(self, count: int, slots: int) -> None:
        self.slots, self.latency = slots, pipeline.argmax(count)
        self.clear = given(1, "forget the largest; its row stays until a result comes")
        self.enable = given(1, "the valid ones among the results count")
        self.slot = given(bits_for_index(slots), "whose results they are")
        self.asked = given(bits_for_index(slots), "a slot")
        self.valid = [given(1, f"there is a result {k}") for k in range(count)]
        self.row = [given(32, f"row of result {k}, rising with k") for k in range(count)]
        self.result = [given(32, f"result {k}, FP32") for k in range(count)]
        self.best = gives(32, "row of its largest")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        candidates: list[Value] = [
            registered(m, Cat(row, Mux(valid, order(result), 0)), f"candidate_{k}")
            for k, (valid, row, result) in enumerate(zip(self.valid, self.row, self.result, strict=True))
        ]
        entry, compared = pipelined_tree(m, candidates, lambda a, b: Mux(b[32:] > a[32:], b, a), "larger")
        at = compared + 1
        assert at + 1 == self.latency
        early = int(self.slots > FEW)  # a choice among so many begins at a register, not at the end of a shift register
        slot = delay_valid(m, delay(m, self.slot, at - early, "slot"), early, "own_slot")
        clear, enable = delay_valid(m, self.clear, at), delay_valid(m, self.enable, at)
        largest, best = (Array(Signal(32, name=f"{name}_{s}") for s in range(self.slots)) for name in ("largest", "best"))
        m.d.comb += self.best.eq(best[self.asked])
        with m.If(clear):
            m.d.sync += [each.eq(0) for each in largest]
        with m.Elif(enable & (entry[32:] > largest[slot])):
            m.d.sync += [largest[slot].eq(entry[32:]), best[slot].eq(entry[:32])]
        return m
