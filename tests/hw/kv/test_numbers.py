"""Alignment of an entry's FP16 elements against the numerics."""

from __future__ import annotations

from functools import partial

import numpy as np
from amaranth.hdl import signed

from hw.kv.numbers import align_half
from skipopu.numerics import fp16
from tests.hw.arithmetic.operands import RNG, function, halves


def test_element() -> None:
    h = halves(600)
    shared = np.minimum(fp16.exponent_field(h.view(np.float16)) + RNG.integers(0, 31, len(h)), 30)
    expected = fp16.align(h.view(np.float16), shared).astype(np.int64)
    function(partial(align_half, name="a"), [(16, h), (5, shared)], signed(18), expected, latency=2)
