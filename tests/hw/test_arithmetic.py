"""Arithmetic units against numerics, bit for bit: random operands, cancellation, ties, subnormal results, overflow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.sim import Simulator

from hw.arithmetic.fp32 import Add, FromInteger, Multiply, fp32_to_half_word, half_word_to_fp32
from hw.arithmetic.quadratic import Quadratic
from hw.arithmetic.signature import mix
from hw.kv.port import align_half
from hw.vector.align import align_lane
from skipopu.numerics import align, fp16, fp32, signature, tables

COUNT = 1500
RNG = np.random.default_rng(11)


def numbers(count: int) -> np.ndarray:
    """FP32 patterns: all exponents, near 1, small, large; mantissas often all zeros or ones; zeros of both signs."""
    raw = RNG.integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    kind = RNG.integers(0, 4, count)
    ranges = [(1, 255), (120, 134), (1, 30), (225, 255)]
    exponent = np.choose(kind, [RNG.integers(a, b, count) for a, b in ranges]).astype(np.uint32)
    corner = RNG.choice(np.array([0, 1, 0x7FFFFF, 0x400000, 0x7FFFFE], np.uint32), count)
    fraction = np.where(RNG.integers(0, 3, count) == 0, corner, raw & 0x7FFFFF)
    x = raw & 0x80000000 | exponent << 23 | fraction
    x[RNG.integers(0, 20, count) == 0] &= 0x80000000
    return x.astype(np.uint32)


def drive(dut: Elaboratable, inputs: list[tuple[Signal, np.ndarray]], output: Signal, latency: int) -> np.ndarray:
    """Applies one operation per cycle without gaps and collects the results."""
    results = []

    async def bench(ctx) -> None:
        count = len(inputs[0][1])
        for cycle in range(count + latency - 1):
            if cycle < count:
                for signal, values in inputs:
                    ctx.set(signal, int(values[cycle]))
            await ctx.tick()
            if cycle >= latency - 1:
                results.append(ctx.get(output))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(results)


class Combinational(Elaboratable):
    """One register behind a combinational function of ``width``-bit inputs."""

    def __init__(self, build: Callable[..., object], widths: tuple[int, ...], output: int) -> None:
        self.build, self.inputs = build, [Signal(w, name=f"i{k}") for k, w in enumerate(widths)]
        self.output = Signal(output)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.output.eq(self.build(m, *self.inputs))
        return m


def test_multiply() -> None:
    a, b = numbers(COUNT), numbers(COUNT)
    dut = Multiply()
    seen = drive(dut, [(dut.a, a), (dut.b, b)], dut.z, Multiply.LATENCY)
    assert (seen == fp32.bits(fp32.multiply(a.view(np.float32), b.view(np.float32)))).all()


@pytest.mark.parametrize("unit", [Add, Multiply])
def test_subnormal_operands_are_zeros_of_their_sign(unit: type[Add | Multiply]) -> None:
    a, b = numbers(COUNT), numbers(COUNT)
    for x, step in ((a, 2), (b, 3)):
        x[::step] &= 0x807FFFFF
    dut = unit()
    seen = drive(dut, [(dut.a, a), (dut.b, b)], dut.z, unit.LATENCY)
    model = fp32.add if unit is Add else fp32.multiply
    assert (seen == fp32.bits(model(a.view(np.float32), b.view(np.float32)))).all()


def test_add_with_cancellation() -> None:
    a, b = numbers(COUNT), numbers(COUNT)
    b[::5] = a[::5] ^ 0x80000000
    near = (a[1::5] ^ 0x80000000).astype(np.int64) + RNG.integers(-3, 4, len(a[1::5]))
    b[1::5] = near.astype(np.uint32)
    exponent = b >> 23 & 255
    b = np.where((exponent == 255) | (exponent == 0), b & 0x80000000, b).astype(np.uint32)
    dut = Add()
    seen = drive(dut, [(dut.a, a), (dut.b, b)], dut.z, Add.LATENCY)
    assert (seen == fp32.bits(fp32.add(a.view(np.float32), b.view(np.float32)))).all()


SPECIAL = np.array(
    [
        *(0x00000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x00800001, 0x00FFFFFF, 0x33800000, 0x34000000),
        *(0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FFFFFFF, 0x40000000, 0x4B800000, 0x4B7FFFFF, 0x4B000001),
        *(0x73000000, 0x7E800000, 0x7EFFFFFF, 0x7F000000, 0x7F7FFFFE, 0x7F7FFFFF),
    ],
    np.uint32,
)


@pytest.mark.parametrize("operation", ["multiply", "add"])
def test_signed_zeros_subnormals_ties_and_overflow(operation: str) -> None:
    """All pairs of special numbers and signs. Subnormal operands count as zero; what IEEE makes infinite saturates."""
    every = np.concatenate([SPECIAL, SPECIAL | np.uint32(1 << 31)])
    a, b = (v.reshape(-1) for v in np.meshgrid(every, every))
    dut = Multiply() if operation == "multiply" else Add()
    seen = drive(dut, [(dut.a, a), (dut.b, b)], dut.z, dut.LATENCY)
    x, y = (np.where(v & 0x7F800000, v, v & 0x80000000).astype(np.uint32).view(np.float32) for v in (a, b))
    with fp32.Saturation() as saturation:
        expected = fp32.bits(getattr(fp32, operation)(x, y))
    assert saturation.seen
    assert (seen == expected).all()
    with np.errstate(all="ignore"):
        ieee = getattr(np, operation)(x, y)
    infinite = np.isinf(ieee)
    assert infinite.any()
    assert (seen[infinite] & 0x7FFFFFFF == 0x7F7FFFFF).all()
    normal = np.isfinite(ieee) & (np.abs(ieee) >= np.float32(2.0**-125))
    assert (seen[normal] == fp32.bits(ieee[normal])).all()


def test_an_infinite_operand_saturates() -> None:
    """Infinities are not numbers of the machine; a pattern that looks like one behaves as 2^128."""
    a = np.full(8, 0x7F800000, np.uint32)
    b = fp32.bits(np.array([1, -1, 0.75, 3, 2, 1e30, -4, 1.5], np.float32))
    dut = Multiply()
    seen = drive(dut, [(dut.a, a), (dut.b, b)], dut.z, dut.LATENCY)
    large = np.abs(b.view(np.float32)) >= 1
    assert (seen[large] == (b[large] & 0x80000000 | 0x7F7FFFFF)).all()
    assert (seen[~large] & 0x7FFFFFFF <= 0x7F7FFFFF).all()


@pytest.mark.parametrize("width", [32, 47, 64])
def test_from_integer(width: int) -> None:
    drop = RNG.integers(0, width - 2, COUNT)
    mantissa = RNG.integers(-(2 ** (width - 2)), 2 ** (width - 2), COUNT) >> drop
    exponent = RNG.integers(-230, 90, COUNT)
    edge = RNG.integers(0, 3, COUNT) == 0
    exponent = np.where(edge, -126 - (width - 2) + drop + RNG.integers(-2, 3, COUNT), exponent)
    dut = FromInteger(width)
    seen = drive(dut, [(dut.mantissa, mantissa), (dut.exponent, exponent)], dut.z, FromInteger.LATENCY)
    assert (seen == fp32.bits(fp32.from_integer(mantissa, exponent))).all()


def test_half_precision_both_ways() -> None:
    x = numbers(COUNT)
    x[::2] = RNG.integers(90, 145, len(x[::2])).astype(np.uint32) << 23 | x[::2] & 0x807FFFFF
    x[::6] = x[::6] & 0xFFFFE000 | 0x1000  # ties
    dut = Combinational(lambda m, i: fp32_to_half_word(m, i, "h")[0], (32,), 16)
    assert (drive(dut, [(dut.inputs[0], x)], dut.output, 1) == fp16.from_fp32(x.view(np.float32)).view(np.uint16)).all()
    h = RNG.integers(0, 2**16, COUNT).astype(np.uint16)
    h = np.where(h >> 10 & 31 == 31, h & 0x83FF, h).astype(np.uint16)
    dut = Combinational(lambda m, i: half_word_to_fp32(m, i, "h"), (16,), 32)
    assert (drive(dut, [(dut.inputs[0], h)], dut.output, 1) == h.view(np.float16).astype(np.float32).view(np.uint32)).all()


def test_alignment_of_activations_and_entries() -> None:
    x = numbers(COUNT)
    group = np.minimum((x >> 23 & 255) + RNG.integers(0, 25, COUNT), 254).clip(1).astype(np.uint32)
    # A second element with the group's exponent fixes it in the model.
    pairs = np.stack([x, group << 23], 1).view(np.float32)
    expected, exponents = align.align(pairs, 2)
    assert (exponents[:, 0] == group).all()
    dut = Combinational(lambda m, i, e: align_lane(m, i, e, "a"), (32, 8), 18)
    seen = drive(dut, [(dut.inputs[0], x), (dut.inputs[1], group)], dut.output, 1)
    assert (seen == expected[:, 0, 0].astype(np.int64) % (1 << 18)).all()
    h = RNG.integers(0, 2**16, COUNT).astype(np.uint16)
    h = np.where(h >> 10 & 31 == 31, h & 0x83FF, h).astype(np.uint16).view(np.float16)
    shared = np.minimum(fp16.exponent_field(h) + RNG.integers(0, 31, COUNT), 30)
    dut = Combinational(lambda m, i, e: align_half(m, i, e, "a"), (16, 5), 18)
    seen = drive(dut, [(dut.inputs[0], h.view(np.uint16)), (dut.inputs[1], shared)], dut.output, 1)
    assert (seen == fp16.align(h, shared).astype(np.int64) % (1 << 18)).all()


def test_tables() -> None:
    which = RNG.integers(0, 4, COUNT)
    u = np.array([RNG.integers(0, 1 << tables.TABLES[i].argument_bits) for i in which])
    dut = Quadratic(tables.TABLES)
    seen = drive(dut, [(dut.select, which), (dut.u, u)], dut.y, Quadratic.LATENCY)
    assert (seen == [int(tables.TABLES[i].evaluate(np.array(v))) for i, v in zip(which, u, strict=True)]).all()


def test_signature_hash() -> None:
    where, value = numbers(COUNT), numbers(COUNT)
    dut = Combinational(lambda m, i, v: mix(m, i, v, "x"), (32, 32), 32)
    seen = drive(dut, [(dut.inputs[0], where), (dut.inputs[1], value)], dut.output, 1)
    assert (seen == signature.mix(where, value)).all()
