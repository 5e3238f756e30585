"""Alignment, FP16 storage, INT4 weights and signatures."""

from __future__ import annotations

import numpy as np
import pytest

from skipopu.numerics import align, fp16, signature
from skipopu.numerics.formats import (
    BY_NAME,
    FORMATS,
    FP4,
    INT4,
    INT4Z,
    SIGNED,
    UNSIGNED,
    Format,
    dequantise,
    padded,
    quantise_split,
)
from tests.support import random_codes


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
    """Nothing that a code may stand for is nearer: of a group's 16 integers where zero points say which."""
    w = (np.random.default_rng(2).standard_normal((7, n)) + np.arange(-3, 4)[:, None]).astype(np.float32)
    q, scale = form.quantise(w, 128)
    assert form.holds(q.reshape(7, -1)[:, :n], 128).all()
    wide = padded(w, 128)
    if form.zero_points:
        least, most = np.minimum(wide.min(-1), 0), np.maximum(wide.max(-1), 0)
        assert (scale == ((most - least) / 15).astype(np.float16)).all()
        zero = np.rint(-least / scale.astype(np.float32))[..., None]
        allowed = np.arange(16) - zero
        assert (np.maximum(q.max(-1), 0) - np.minimum(q.min(-1), 0) >= 14).all(), "all of the range is used"
    else:
        assert (scale == (np.abs(wide).max(-1) / np.float32(form.full)).astype(np.float16)).all()
        allowed = np.broadcast_to(form.values, (*scale.shape, len(form.values)))
    values = allowed * scale.astype(np.float32)[..., None]
    nearest = np.abs(wide[..., None] - values[:, :, None]).min(-1)
    assert np.allclose(np.abs(dequantise(q, scale, n) - w), nearest.reshape(7, -1)[:, :n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_nibbles_hold_every_value(form: Format) -> None:
    for q in (form.values.astype(np.int8)[:, None], random_codes(form, np.random.default_rng(3), (40, 3, 16))):
        nibbles = form.nibbles(q)
        assert nibbles.max() < 16
        assert (form.integers(nibbles, form.zeros(q)) == q).all()
    assert form.values.max() >= form.full


def test_values_between_are_not_needed() -> None:
    w = np.array([[12, 9.9, 10.1, 7.1, 4.9, -5.1, 0.4, -0.6]], np.float32)
    q, scale = FP4.quantise(w, 8)
    assert scale == 1
    assert q.tolist() == [[[12, 8, 12, 8, 4, -6, 0, -1]]]
    assert FP4.nibbles(np.zeros((1, 1), np.int8)) == 0, "of two zeros the first"


def test_zero_points() -> None:
    w = np.array([[0, 15, 3.4, 3.6], [-15, 0, -7, -8], [-10, 5, 0, 1], [0, 0, 0, 0], [30, 22, 29, 28.4]], np.float32)
    q, scale = INT4Z.quantise(w, 4)
    assert scale[:, 0].tolist() == [1, 1, 1, 0, 2]
    assert q[:, 0].tolist() == [[0, 15, 3, 4], [-15, 0, -7, -8], [-10, 5, 0, 1], [0, 0, 0, 0], [15, 11, 14, 14]]
    assert INT4Z.zeros(q)[:, 0].tolist() == [0, 15, 10, 0, 0]


def test_what_a_format_holds() -> None:
    """Zero points from 0 to 16: 16 integers in a row from -16 to 15, padding 0 among them."""
    q = np.array([[-16, -1], [0, 15], [-1, 15], [-16, 0], [-8, 7]], np.int16)
    assert INT4Z.holds(q, 2).tolist() == [True, True, False, False, True]
    assert INT4Z.holds(q, 1).all()
    assert INT4Z.holds(np.array([[-16, -1, -16], [2, 15, 15]]), 2).tolist() == [False, True]
    assert INT4.holds(q, 2).tolist() == [False, False, False, False, True]
    assert not INT4Z.holds(np.array([[16, 16], [-17, -17]]), 2).any()


def test_a_format_stays_within_the_multipliers() -> None:
    with pytest.raises(ValueError, match="-15 to 15"):
        Format("wide", 7, 16, ((*range(1, 17),), SIGNED))
    with pytest.raises(ValueError, match="digits are UNSIGNED and SIGNED"):
        Format("digits", 7, 15, (SIGNED, SIGNED), two_digits=True)
    with pytest.raises(ValueError, match=r"no nibble for \[9\]"):
        INT4.nibbles(np.array([[9]], np.int8))
    with pytest.raises(ValueError, match=r"no zero point for \[-1, 15\]"):
        INT4Z.nibbles(np.array([[-1, 14], [-1, 15]], np.int8))
    with pytest.raises(ValueError, match="one digit, UNSIGNED"):
        Format("zeros", 7, 15, (UNSIGNED, SIGNED), two_digits=True, zero_points=True)
    with pytest.raises(ValueError, match="one digit, UNSIGNED"):
        Format("zeros", 7, 15, (SIGNED, SIGNED), zero_points=True)
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
