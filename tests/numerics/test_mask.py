"""Keys of numbers, and what they compare like."""

from __future__ import annotations

import struct

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sim.reference import masks as reference
from skipopu.numerics import mask

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
sizes = st.floats(2.0**-30, 2.0**30, width=32)


@given(numbers)
def test_a_key_is_the_upper_half_of_the_pattern(x: float) -> None:
    (pattern,) = struct.unpack("<I", struct.pack("<f", abs(x)))
    assert int(mask.key(x)) == pattern >> 16
    assert int(reference.key(torch.tensor([x]))[0]) == pattern >> 16


@given(numbers, numbers)
def test_keys_grow_with_the_magnitude(a: float, b: float) -> None:
    assert abs(a) > abs(b) or mask.key(a) <= mask.key(b)


@given(sizes, sizes, sizes, sizes)
def test_sums_compare_like_products(a: float, b: float, c: float, d: float) -> None:
    """A key is off by 1 and, the logarithm being a straight line in each power of two, by 0.0861 x 128 at most."""
    least = 2 * (1 + 0.0861 * 128) / 128
    if np.log2(a) + np.log2(b) > np.log2(c) + np.log2(d) + least:
        assert mask.key(a) + mask.key(b) > mask.key(c) + mask.key(d)


@given(st.lists(numbers, min_size=1), numbers)
def test_thresholds_of_all_and_none(x: list[float], scale: float) -> None:
    keys, own = mask.key(np.array(x, np.float32)), mask.key(scale)
    assert mask.active(keys, own, np.zeros(len(x), np.uint16)).all()
    assert not mask.active(keys, own, np.full(len(x), mask.NEVER, np.uint16)).any()
    assert mask.active(keys, own, (keys + own).astype(np.uint16)).all()
    assert not mask.active(keys, own, (keys + own + 1).astype(np.uint16)).any()
