"""Named numerics profiles. Everything that changes bits is part of a profile's fingerprint.

A machine executes ``exact18``. The others define what narrower or different arithmetic would compute, for studies: the
functional engine runs them, the hardware has their units on their own.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipopu.numerics import adjust, align, fp16, fp32, half, mask, tables
from skipopu.numerics.activation import Activation, gated
from skipopu.numerics.formats import BY_NAME, USUAL
from skipopu.numerics.fp32 import F32, F64, I64
from skipopu.numerics.signature import signature

EXACT18 = "exact18"


@dataclass(frozen=True)
class Profile:
    """How products of activations with weights and with FP16 numbers are formed and summed.

    Attributes:
        name, summary: for people.
        bits: width of aligned mantissas; None: operands stay FP16.
        half: sums products of FP16 numbers (..., n) with FP16 or integer ones along the last axis; None: aligned integers.
    """

    name: str
    summary: str
    bits: int | None = None
    half: Callable[[F32, F32, bool], F32] | None = None

    def align(self, x: F32, group: int) -> tuple[F64, I64]:
        """Operands of (..., n) FP32 in groups: x ~ m * 2^(exponent - 143); see :func:`skipopu.numerics.align.align`."""
        if self.bits is not None:
            return align.align(x, group, self.bits)
        padded = np.zeros((*x.shape[:-1], x.shape[-1] + -x.shape[-1] % group), np.float32)
        padded[..., : x.shape[-1]] = x
        values = fp16.from_fp32(padded).astype(np.float64).reshape(*x.shape[:-1], -1, group)
        return values, np.full(values.shape[:-1], align.ALIGNED_BIAS)

    def align_half(self, x: NDArray[np.float16], exponent: I64) -> F64:
        """K and V under their shared exponent; see :func:`skipopu.numerics.fp16.align`."""
        return fp16.align(x, exponent, self.bits or align.ALIGNED_BITS)

    def group_products(self, m: F64, exponent: I64, codes: NDArray[np.int8], scale: NDArray[np.float16]) -> F32:
        """FP32 results of one group: m (tokens, n) and exponent (tokens,) with codes (rows, n) and scale (rows,)."""
        if self.half is None:
            power = np.ldexp(1.0, exponent - align.ALIGNED_BIAS)[:, None]
            return fp32.narrow((m @ codes.T.astype(np.float64)) * scale.astype(np.float64) * power)
        sums = self.half(m.astype(np.float32)[:, None], codes.astype(np.float32)[None], True)
        return fp32.multiply(sums, scale.astype(np.float32))

    def dot(self, a: F32, b: NDArray[np.float16]) -> F32:
        """Sums of products of (..., n) FP32 with FP16 numbers, one group."""
        if self.half is not None:
            return self.half(fp16.from_fp32(a).astype(np.float32), b.astype(np.float32), False)
        m, exponent = align.align(a, a.shape[-1], self.bits or align.ALIGNED_BITS)
        fields = fp16.exponent_field(b).max(-1)
        other = self.align_half(b, fields[..., None])
        exact = (m[..., 0, :] * other).sum(-1)
        return fp32.narrow(np.ldexp(exact, exponent[..., 0] - align.ALIGNED_BIAS + fields - fp16.ALIGNED_BIAS))


PROFILES = {
    profile.name: profile
    for profile in (
        *(Profile(f"exact{b}", f"operands aligned to {b} bits, exact integer sums", b) for b in range(18, 11, -1)),
        Profile("overpacked", "two FP16 mantissa products per DSP, repaired exactly, shifted to a shared exponent", None, half.overpacked),
        Profile("truncated", "the same with 9-bit mantissas on the packed side, truncated", None, half.truncated),
        Profile("fp16-mac", "a chain of FP16 multiply-adds, every sum rounded", None, half.multiply_add),
    )
}  # fmt: skip
EXECUTED = (EXACT18,)  # what the generated processor can be built for


@functools.cache
def fingerprint(profile: str, formats: tuple[str, ...] = USUAL, masks: bool = False) -> str:
    """16 hex digits over what the profile's operations give for fixed operands: who computes another bit has another fingerprint.

    ``formats`` are those of the weights, by name; ``masks``: input channels may be left out.

    Raises:
        KeyError: the profile is not known.
    """
    digest = hashlib.sha256(PROFILES[profile].name.encode())
    for result in golden(PROFILES[profile], formats, masks):
        digest.update(np.ascontiguousarray(result).tobytes())
    return digest.hexdigest()[:16]


def golden(profile: Profile, formats: tuple[str, ...], masks: bool = False) -> Iterator[NDArray]:
    """Results of the operations that a program is made of, of seeded operands of many magnitudes."""
    draw = np.random.default_rng(18)

    def numbers(low: int, high: int, *shape: int) -> F32:
        """FP32 with exponents from 2^low to below 2^high, a zero here and there."""
        exponent = draw.integers(127 + low, 127 + high, shape, np.uint32) << 23
        pattern = exponent | draw.integers(0, 1 << 23, shape, np.uint32) | draw.integers(0, 2, shape, np.uint32) << 31
        return np.where(draw.random(shape) < 0.05, 0, pattern).astype(np.uint32).view(np.float32)

    x, y = numbers(-12, 12, 4, 200), numbers(-12, 12, 4, 200)
    yield from (
        fp32.add(x, y),
        fp32.multiply(x, y),
        fp32.narrow(x.astype(np.float64) * y),
        fp32.from_integer(x.view(np.int32), 3),
    )
    mantissas, exponents = profile.align(x, 64)
    half = fp16.from_fp32(numbers(-20, 15, 4, 64))
    fields = fp16.exponent_field(half).max(-1)
    yield from (mantissas, exponents, half, profile.align_half(half, fields[:, None]), profile.dot(x[:, :64], half))
    for form in (BY_NAME[name] for name in formats):
        codes, scales = form.quantise(y[:, :64], 64)
        products = profile.group_products(mantissas[:, 0], exponents[:, 0], codes[:, 0], scales[:, 0])
        yield from (codes, scales, form.nibbles(codes), products)
    if profile.half is None:
        yield align.inverse_rms(mantissas, exponents, np.float32(1 / 200), np.float32(1e-5))
    positive = np.abs(numbers(-30, 30, 256))
    yield from (tables.exp2_negative(positive), tables.reciprocal(positive), tables.reciprocal_sqrt(positive))
    yield adjust.inverse_rms(x, np.float32(1 / 200), np.float32(1e-5))
    yield adjust.affine(x, y, y[::-1])
    for function in Activation:
        yield gated(function, x, y, np.float32(1.702))
    if masks:
        yield mask.active(mask.key(x), mask.key(y[:, :1]), (mask.key(x[::-1]) + mask.ONE).astype(np.uint16))
    yield np.array(signature(np.arange(800, dtype=np.uint32), x.view(np.uint32).reshape(-1)))
