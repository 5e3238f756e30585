"""The multipliers' three uses against integers: weights, queries by keys, probabilities by values."""

from __future__ import annotations

import numpy as np
import pytest

from hw.pe.dot import PackedDot
from skipopu.machine.config import QUERY_LANES
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.formats import FORMATS, Format
from tests.hw.bench import pipeline

LANES, COUNT = 8, 200
PRIMITIVES = pytest.mark.parametrize("primitive", ["27x18", "18x18"])


def packed(values: np.ndarray, bits: int) -> list[int]:
    """Rows of numbers side by side, the first lowest."""
    mask = (1 << bits) - 1
    return [sum((int(v) & mask) << bits * k for k, v in enumerate(row)) for row in values]


@PRIMITIVES
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_weights_mean_what_their_format_says(primitive: str, form: Format) -> None:
    rng = np.random.default_rng(1)
    x, first, second = (rng.integers(a, b, (COUNT, LANES)) for a, b in ((-131071, 131072), (0, 16), (0, 16)))
    low, high = (np.array(table)[nibbles] for table, nibbles in zip(form.digits, (first, second), strict=True))
    dut = PackedDot(LANES, primitive, FORMATS)
    operands = [
        (dut.beat, [beat for pair in zip(packed(first, 4), packed(second, 4), strict=True) for beat in pair]),
        (dut.first, [1, 0] * COUNT),
        (dut.second, [0, 1] * COUNT),
        (dut.format, [form.code] * 2 * COUNT),
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
    dut = PackedDot(LANES, primitive, FORMATS)
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
    dut = PackedDot(LANES, primitive, FORMATS)
    probability = rng.integers(0, (1 << dut.probability_bits - 1) + 1, COUNT)
    operands = [(dut.values, [1] * COUNT), (dut.element, packed(element, ALIGNED_BITS)), (dut.probability, probability)]
    products = packed(element * probability[:, None], dut.probability_bits + ALIGNED_BITS)
    pipeline(dut, operands, [(dut.products, products)], dut.PRODUCT_LATENCY)
