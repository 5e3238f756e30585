"""Alignment, FP16 storage, INT4 weights and signatures."""

from __future__ import annotations

import numpy as np
import pytest

from skipopu.numerics import align, fp16, int4, signature


def test_alignment_error_is_half_a_unit() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_t(3, (50, 200)) * 10.0 ** rng.integers(-6, 6, (50, 1))).astype(np.float32)
    m, exponent = align.align(x, 64)
    assert m.shape == (50, 4, 64)
    assert np.abs(m).max() <= align.ALIGNED_MAX
    padded = np.zeros((50, 256), np.float32)
    padded[:, :200] = x
    back = np.ldexp(m, (exponent - align.ALIGNED_BIAS)[..., None]).reshape(50, 256)
    unit = np.ldexp(1.0, exponent - align.ALIGNED_BIAS)
    clipped = np.abs(m) == align.ALIGNED_MAX
    error = np.abs(back - padded).reshape(50, 4, 64)
    assert (error <= np.where(clipped, 1.0, 0.5) * unit[..., None]).all()


def test_zero_group_has_the_smallest_exponent() -> None:
    m, exponent = align.align(np.zeros((1, 128), np.float32), 128)
    assert exponent[0, 0] == 1
    assert not m.any()


def test_fp16_keeps_subnormals_and_saturates() -> None:
    x = np.array([6e-8, 1e-6, 65519.0, 65520.0, 1e30, -1e30], np.float32)
    assert fp16.from_fp32(x).tolist() == [np.float16(6e-8), np.float16(1e-6), 65504, 65504, 65504, -65504]


def test_kv_alignment_is_exact_near_the_largest() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((20, 32)).astype(np.float16)
    exponent = fp16.exponent_field(x).max(-1)
    m = fp16.align(x, exponent[:, None])
    back = np.ldexp(m, exponent[:, None] - 31)
    close = fp16.exponent_field(x) >= exponent[:, None] - 6
    assert (back[close] == x.astype(float)[close]).all()
    assert np.abs(m).max() < 1 << 17


@pytest.mark.parametrize("n", [128, 200, 96])
def test_int4_round_to_nearest(n: int) -> None:
    w = np.random.default_rng(2).standard_normal((7, n)).astype(np.float32)
    q, scale = int4.quantise(w, 128)
    assert (q.min() >= -8) & (q.max() <= 7)
    step = np.repeat(scale.astype(np.float32), 128, 1)[:, :n]
    assert (np.abs(int4.dequantise(q, scale, n) - w) <= 0.502 * step).all()
    q, scale = int4.quantise_split(w, 128)
    digits = int4.dequantise(q, scale, n)
    fine = np.repeat(scale[1::2].astype(np.float32), 128, 1)[:, :n]
    assert (np.abs(digits[0::2] + digits[1::2] - w) <= 0.51 * fine).all()


def test_signature_depends_on_place_and_value_only() -> None:
    rng = np.random.default_rng(3)
    where, value = np.arange(100, dtype=np.uint32), rng.integers(0, 2**32, 100).astype(np.uint32)
    total = signature.signature(where, value)
    order = rng.permutation(100)
    assert signature.signature(where[order], value[order]) == total
    swapped = value.copy()
    swapped[[3, 35]] = swapped[[35, 3]]
    assert signature.signature(where, swapped) != total
    for bit in range(32):
        flipped = value.copy()
        flipped[17] ^= np.uint32(1 << bit)
        assert signature.signature(where, flipped) != total
