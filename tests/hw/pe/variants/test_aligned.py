"""Packed INT4 products, summed and rounded once, against integers."""

from __future__ import annotations

import numpy as np
import pytest

from hw.pe.variants import AlignedDot
from skipopu.numerics import align, fp32
from tests.hw.bench import pipeline


@pytest.mark.parametrize("bits", [12, 14, 18])
def test_aligned_dot(bits: int) -> None:
    """Pairs of INT4 rows: both members' sums, one pair per two cycles."""
    rng = np.random.default_rng(bits)
    lanes, count = 16, 200
    x = (rng.standard_normal((count, lanes)) * np.exp2(rng.integers(-20, 20, (count, 1)))).astype(np.float32)
    m, exponent = align.align(x, lanes, bits)
    q = rng.integers(-8, 8, (count, 2, lanes))
    exact = (m[:, 0, None] * q).sum(-1).astype(np.int64)
    expected = fp32.bits(fp32.from_integer(exact, exponent[:, :1] - align.ALIGNED_BIAS))

    def held(values: list[int]) -> list[int]:
        """Every second cycle; in between what stands there must not matter, so it stands on."""
        return [value for value in values for _ in range(2)]

    beats = [sum((int(v) & 15) << 4 * i for i, v in enumerate(member)) for pair in q for member in pair]
    rows = (m[:, 0] / (1 << 18 - bits)).astype(np.int64)
    activations = [sum((int(v) & (1 << bits) - 1) << bits * i for i, v in enumerate(row)) for row in rows]
    dut = AlignedDot(lanes, bits)
    # A pair is complete two cycles after its first beat, its activation follows two cycles later.
    operands = [
        (dut.dot.beat, beats),
        (dut.dot.first, [1, 0] * count),
        (dut.dot.second, [0, 1] * count),
        (dut.dot.activation, held(activations), 4),
        (dut.exponent, held(exponent[:, 0].tolist()), 4),
    ]
    sums = [(port, held(expected[:, k].tolist())) for k, port in enumerate(dut.sums)]
    pipeline(dut, operands, sums, 4 + dut.latency)
