"""Alignment, FP16 storage, INT4 weights and signatures."""

from __future__ import annotations

import numpy as np
import pytest

from skipopu.numerics import align, fp16, signature
from skipopu.numerics.formats import BY_NAME, FORMATS, INT4, SIGNED, Format, dequantise, quantise_split


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


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("n", [128, 200, 96])
def test_round_to_nearest(n: int, form: Format) -> None:
    w = np.random.default_rng(2).standard_normal((7, n)).astype(np.float32)
    q, scale = form.quantise(w, 128)
    assert np.isin(q, form.values).all()
    step = np.repeat(scale.astype(np.float32), 128, 1)[:, :n]
    assert (np.abs(dequantise(q, scale, n) - w) <= 0.502 * step).all()


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_nibbles_hold_every_value(form: Format) -> None:
    q = form.values.astype(np.int8)[:, None]
    nibbles = form.nibbles(q)
    assert nibbles.max() < 16
    assert (form.integers(nibbles) == q).all()
    assert form.values.max() >= form.full


def test_values_between_are_not_needed() -> None:
    fp4 = Format("fp4", 7, 12, ((*(table := (0, 1, 2, 3, 4, 6, 8, 12)), *(-v for v in table)),) * 2)
    w = np.array([[12, 9.9, 10.1, 7.1, 4.9, -5.1, 0.4, -0.6]], np.float32)
    q, scale = fp4.quantise(w, 8)
    assert scale == 1
    assert q.tolist() == [[[12, 8, 12, 8, 4, -6, 0, -1]]]
    assert (fp4.integers(fp4.nibbles(q)) == q).all()
    assert fp4.nibbles(np.zeros((1, 1), np.int8)) == 0, "of two zeros the first"


def test_a_format_stays_within_the_multipliers() -> None:
    with pytest.raises(ValueError, match="-15 to 15"):
        Format("wide", 7, 16, ((*range(1, 17),), SIGNED))
    with pytest.raises(ValueError, match="digits are UNSIGNED and SIGNED"):
        Format("digits", 7, 15, (SIGNED, SIGNED), two_digits=True)
    with pytest.raises(ValueError, match=r"no nibble for \[9\]"):
        INT4.nibbles(np.array([[9]], np.int8))
    assert BY_NAME["int4"] is INT4


def test_split_rows_add_up() -> None:
    w = np.random.default_rng(2).standard_normal((7, 200)).astype(np.float32)
    q, scale = quantise_split(w, 128)
    digits = dequantise(q, scale, 200)
    fine = np.repeat(scale[1::2].astype(np.float32), 128, 1)[:, :200]
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
