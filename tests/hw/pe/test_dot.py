"""The multipliers' three uses against integers: INT8 weights, queries by keys, probabilities by values."""

from __future__ import annotations

import numpy as np
import pytest

from hw.pe.dot import PackedDot
from skipopu.machine.config import QUERY_LANES
from skipopu.numerics.align import ALIGNED_BITS
from tests.hw.bench import pipeline

LANES, COUNT = 8, 200
PRIMITIVES = pytest.mark.parametrize("primitive", ["27x18", "18x18"])


def packed(values: np.ndarray, bits: int) -> list[int]:
    """Rows of numbers side by side, the first lowest."""
    mask = (1 << bits) - 1
    return [sum((int(v) & mask) << bits * k for k, v in enumerate(row)) for row in values]


@PRIMITIVES
def test_digits_of_int8(primitive: str) -> None:
    """The first member of a pair is a digit without sign, the second one with."""
    rng = np.random.default_rng(1)
    x, low, high = (rng.integers(a, b, (COUNT, LANES)) for a, b in ((-131071, 131072), (0, 16), (-8, 8)))
    dut = PackedDot(LANES, primitive)
    operands = [
        (dut.beat, [beat for pair in zip(packed(low, 4), packed(high, 4), strict=True) for beat in pair]),
        (dut.first, [1, 0] * COUNT),
        (dut.second, [0, 1] * COUNT),
        (dut.wide, [1] * 2 * COUNT),
        (dut.activation, np.repeat(np.array(packed(x, ALIGNED_BITS), object), 2), 4),
    ]
    sums = [(dut.lower, np.repeat((x * low).sum(1), 2)), (dut.upper, np.repeat((x * high).sum(1), 2))]
    pipeline(dut, operands, sums, 4 + dut.latency)


@PRIMITIVES
def test_queries_by_keys(primitive: str) -> None:
    """A quarter of the lanes per query, all with the entry's elements."""
    rng, quarter = np.random.default_rng(2), LANES // QUERY_LANES
    queries, element = (rng.integers(-131071, 131072, (COUNT, n)) for n in (LANES, quarter))
    dots = (queries.reshape(COUNT, QUERY_LANES, quarter) * element[:, None]).sum(-1)
    dut = PackedDot(LANES, primitive)
    operands = [
        (dut.keys, [1] * COUNT),
        (dut.activation, packed(queries, ALIGNED_BITS)),
        (dut.element, packed(element, ALIGNED_BITS)),
    ]
    pipeline(dut, operands, [(dut.dots, packed(dots, dut.dot_bits(LANES)))], dut.dot_latency)


@PRIMITIVES
def test_probabilities_by_values(primitive: str) -> None:
    rng, quarter = np.random.default_rng(3), LANES // QUERY_LANES
    element = rng.integers(-131071, 131072, (COUNT, quarter))
    dut = PackedDot(LANES, primitive)
    probability = rng.integers(0, (1 << dut.probability_bits - 1) + 1, COUNT)
    operands = [(dut.values, [1] * COUNT), (dut.element, packed(element, ALIGNED_BITS)), (dut.probability, probability)]
    products = packed(element * probability[:, None], dut.probability_bits + ALIGNED_BITS)
    pipeline(dut, operands, [(dut.products, products)], dut.PRODUCT_LATENCY)
