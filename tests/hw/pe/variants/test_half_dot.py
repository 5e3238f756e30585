"""Overpacked and truncated FP16 products against their models, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from hw.pe.variants import HalfDot
from skipopu.numerics import fp32, half
from tests.hw.bench import pipeline

COUNT, LANES = 500, 8


def halves(rng: np.random.Generator, shape: tuple[int, ...], spread: int) -> np.ndarray:
    """FP16 patterns around 1, with zeros, subnormals and the largest numbers among them."""
    x = rng.integers(0, 1 << 16, shape).astype(np.uint16)
    exponent = rng.integers(max(0, 15 - spread), min(31, 16 + spread), shape).astype(np.uint16)
    x = x & 0x83FF | exponent << 10
    corner = rng.choice(np.array([0, 0x8000, 1, 0x3FF, 0x400, 0x7BFF, 0xFBFF, 0x3C00], np.uint16), shape)
    return np.where(rng.integers(0, 12, shape) == 0, corner, x).astype(np.uint16)


def words(x: np.ndarray) -> list[int]:
    """Rows of 16-bit patterns as one integer each, first element lowest."""
    return [int.from_bytes(row.astype("<u2").tobytes(), "little") for row in x]


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("spread", [3, 15])
def test_half_dot(truncated: bool, spread: int) -> None:
    rng = np.random.default_rng(spread)
    operands = [halves(rng, (COUNT, LANES), spread) for _ in range(3)]
    shared, *others = (x.view(np.float16).astype(np.float32) for x in operands)
    model = half.truncated if truncated else half.overpacked
    dut = HalfDot(LANES, truncated)
    inputs = [(port, words(x)) for port, x in zip((dut.shared, dut.first, dut.second), operands, strict=True)]
    sums = [(port, fp32.bits(model(shared, other, False))) for port, other in zip(dut.sums, others, strict=True)]
    pipeline(dut, inputs, sums, dut.latency)
