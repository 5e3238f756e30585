"""Delays, trees and small functions against Python."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module, ResetInserter, Signal, signed, unsigned
from amaranth.sim import SimulatorContext

from hw.arithmetic.pipeline import (
    adder_tree,
    bits_for_index,
    count_shape,
    delay,
    delay_valid,
    largest,
    negate_if,
    pipelined_tree,
    registered,
    tree,
)
from hw.component import Component, given, gives
from tests.hw.arithmetic.operands import RNG, function
from tests.hw.bench import pipeline, simulation

COUNT = 60


class Trees(Component):
    """Sum and maximum of ``count`` numbers in registered trees, and the sum behind ``late`` more registers.

    Latency: the trees' own. Throughput: one per cycle.
    """

    def __init__(self, count: int, late: int) -> None:
        self.late = late
        self.items = [given(signed(6), f"number {k}") for k in range(count)]
        self.sum, self.late_sum = gives(signed(12), "sum"), gives(signed(12), "sum later")
        self.any_odd = gives(1, "sum is odd, registered twice")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total, self.latency = adder_tree(m, self.items)
        odd, same = pipelined_tree(m, [item[0] for item in self.items], lambda a, b: a ^ b, "odd")
        assert same == self.latency
        m.d.comb += [
            self.sum.eq(total),
            self.late_sum.eq(delay(m, total, self.late)),
            self.any_odd.eq(delay_valid(m, registered(m, odd, "odd"), 1)),
        ]
        return m


@pytest.mark.parametrize(("count", "latency"), [(1, 0), (2, 1), (5, 3), (8, 3)])
def test_registered_trees(count: int, latency: int) -> None:
    items = RNG.integers(-32, 32, (count, COUNT))
    total = items.sum(0)
    for port, late in (("sum", 0), ("late_sum", 3), ("any_odd", 2)):
        dut = Trees(count, 3)
        expected = total & 1 if port == "any_odd" else total
        pipeline(dut, list(zip(dut.items, items, strict=True)), [(getattr(dut, port), expected)], latency + late)
        assert dut.latency == latency


@pytest.mark.parametrize("count", [1, 2, 7])
def test_largest(count: int) -> None:
    items = RNG.integers(0, 256, (count, COUNT))
    function(lambda m, *i: largest(m, i, "most"), [(8, values) for values in items], 8, items.max(0))


@pytest.mark.parametrize("shape", [unsigned(5), signed(5)])
def test_negate_if(shape) -> None:
    value = np.arange(32) - 16 * shape.signed
    for condition in (0, 1):
        function(
            lambda m, c, v: negate_if(c, v),
            [(1, np.full(32, condition)), (shape, value)],
            signed(7),
            -value if condition else value,
        )


def test_trees_keep_their_order() -> None:
    for count in range(1, 9):
        text = tree([str(k) for k in range(count)], lambda a, b: a + b)
        assert text == "".join(map(str, range(count)))


def test_shapes() -> None:
    assert [bits_for_index(count).width for count in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]
    assert [count_shape(limit).width for limit in (1, 2, 3, 4)] == [1, 2, 2, 3]


def test_a_reset_clears_what_is_valid() -> None:
    m, reset, valid = Module(), Signal(), Signal()
    late = delay_valid(m, valid, 3)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(valid, 1)
        await ctx.tick().repeat(3)
        assert ctx.get(late)
        ctx.set(valid, 0)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        for _ in range(4):
            assert not ctx.get(late)
            await ctx.tick()

    simulator = simulation(ResetInserter(reset)(m))
    simulator.add_testbench(bench)
    simulator.run()
