"""Both multiplier primitives give the exact product."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Module, signed

from hw.component import Component, given, gives
from hw.pe.multiplier import LATENCY, multiply
from tests.hw.bench import pipeline

WIDE, NARROW = 27, 18


class Multiplier(Component):
    """One multiplier. Latency: LATENCY cycles. Throughput: a product per cycle."""

    def __init__(self, primitive: str) -> None:
        self.primitive = primitive
        self.wide, self.narrow = given(signed(WIDE), "an operand"), given(signed(NARROW), "the other")
        self.product = gives(signed(WIDE + NARROW), "their product")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.product.eq(multiply(m, self.primitive, self.wide, self.narrow, "product"))
        return m


@pytest.mark.parametrize("primitive", ["27x18", "18x18"])
def test_products(primitive: str) -> None:
    source = random.Random(6)

    def numbers(bits: int) -> list[int]:
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        corners = [low, low + 1, -1, 0, 1, high]
        return [a for a in corners for _ in corners] + [source.randint(low, high) for _ in range(300)]

    wide, narrow = numbers(WIDE), numbers(NARROW)
    narrow[:36] = [narrow[6 * (k % 6)] for k in range(36)]  # every corner with every other
    dut = Multiplier(primitive)
    products = [a * b for a, b in zip(wide, narrow, strict=True)]
    pipeline(dut, [(dut.wide, wide), (dut.narrow, narrow)], [(dut.product, products)], LATENCY)
