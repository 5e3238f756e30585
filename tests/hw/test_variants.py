"""The study's units against their models, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from hw.pe.variants import AlignedDot, HalfDot, HalfMultiplyAdd
from skipopu.numerics import align, fp32, half
from tests.hw.test_arithmetic import COUNT, drive

LANES = 8


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
    a, b0, b1 = (halves(rng, (COUNT, LANES), spread) for _ in range(3))
    model = half.truncated if truncated else half.overpacked
    numbers = [x.view(np.float16).astype(np.float32) for x in (a, b0, b1)]
    for k in range(2):
        dut = HalfDot(LANES, truncated)
        inputs = [(dut.shared, words(a)), (dut.first, words(b0)), (dut.second, words(b1))]
        seen = drive(dut, inputs, dut.sums[k], dut.latency)
        expected = fp32.bits(model(numbers[0], numbers[1 + k], False))
        assert (seen == expected).all()


def test_half_multiply_add() -> None:
    rng = np.random.default_rng(5)
    a, b, c = (halves(rng, (COUNT,), spread) for spread in (4, 4, 8))
    dut = HalfMultiplyAdd()
    late = np.concatenate([np.zeros(HalfMultiplyAdd.LATENCY_C, np.uint16), c])[:COUNT]
    seen = drive(dut, [(dut.a, a), (dut.b, b), (dut.c, late)], dut.z, HalfMultiplyAdd.LATENCY)
    x, y, z = (v.view(np.float16).astype(np.float64) for v in (a, b, c))
    x, y, z = (v * (np.abs(v) >= 2.0**-14) for v in (x, y, z))
    expected = half._round(z + half._round(x * y)).astype(np.float16).view(np.uint16)
    stop = COUNT - HalfMultiplyAdd.LATENCY_C
    assert ((seen[:stop] == expected[:stop]) | (expected[:stop] & 0x7FFF == 0) & (seen[:stop] & 0x7FFF == 0)).all()


@pytest.mark.parametrize("bits", [12, 14, 18])
def test_aligned_dot(bits: int) -> None:
    """Pairs of INT4 rows: both members' sums, one pair per two cycles."""
    rng = np.random.default_rng(bits)
    lanes, count = 16, 200
    x = (rng.standard_normal((count, lanes)) * np.exp2(rng.integers(-20, 20, (count, 1)))).astype(np.float32)
    m, exponent = align.align(x, lanes, bits)
    q = rng.integers(-8, 8, (count, 2, lanes))
    dut = AlignedDot(lanes, bits)
    seen: list[list[int]] = []
    mask = (1 << bits) - 1

    async def bench(ctx) -> None:
        for step in range(2 * count + 2 + dut.latency + 2):
            index, member = divmod(step, 2)
            if index < count:
                nibbles = sum((int(v) & 15) << 4 * i for i, v in enumerate(q[index, member]))
                ctx.set(dut.dot.beat, nibbles)
            ctx.set(dut.dot.first, member == 0)
            ctx.set(dut.dot.second, member == 1)
            # The pair is complete two cycles after its first beat, its activation follows two cycles later.
            used = step - 4
            if used >= 0 and used % 2 == 0 and used // 2 < count:
                row = (m[used // 2, 0] / (1 << 18 - bits)).astype(np.int64)
                ctx.set(dut.dot.activation, sum((int(v) & mask) << bits * i for i, v in enumerate(row)))
                ctx.set(dut.exponent, int(exponent[used // 2, 0]))
            await ctx.tick()
            done = step - 4 - dut.latency + 1
            if done >= 0 and done % 2 == 0 and done // 2 < count:
                seen.append([ctx.get(s) for s in dut.sums])

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    exact = (m[:, 0, None] * q).sum(-1).astype(np.int64)
    expected = fp32.bits(fp32.from_integer(exact, exponent[:, :1] - align.ALIGNED_BIAS))
    assert len(seen) == count
    assert (np.array(seen) == expected).all()
