"""The FP16 multiply-add against its model."""

from __future__ import annotations

import numpy as np

from hw.pe.variants import HalfMultiplyAdd
from skipopu.numerics import half
from tests.hw.bench import pipeline
from tests.hw.pe.variants.test_half_dot import halves

COUNT = 1000


def test_half_multiply_add() -> None:
    rng = np.random.default_rng(5)
    a, b, c = (halves(rng, (COUNT,), spread) for spread in (4, 4, 8))
    x, y, z = (v.view(np.float16).astype(np.float64) for v in (a, b, c))
    x, y, z = (v * (np.abs(v) >= 2.0**-14) for v in (x, y, z))
    expected = half._round(z + half._round(x * y)).astype(np.float16).view(np.uint16)
    dut = HalfMultiplyAdd()
    # The sign of a zero may be either.
    some = expected & 0x7FFF != 0
    a, b, c, expected = a[some], b[some], c[some], expected[some]
    assert len(a) > COUNT // 2
    pipeline(dut, [(dut.a, a), (dut.b, b), (dut.c, c, dut.LATENCY_C)], [(dut.z, expected)], dut.latency)
