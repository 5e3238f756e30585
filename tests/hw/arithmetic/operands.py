"""Operands that meet every corner of the formats, and a register behind what is combinational."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from amaranth.hdl import Module, ShapeLike, Value

from hw.component import Component, given, gives
from tests.hw.bench import Values, pipeline

RNG = np.random.default_rng(11)


def numbers(count: int, rng: np.random.Generator = RNG) -> np.ndarray:
    """FP32 patterns: all exponents, near 1, small, large; mantissas often all zeros or ones; zeros of both signs."""
    raw = rng.integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    kind = rng.integers(0, 4, count)
    ranges = [(1, 255), (120, 134), (1, 30), (225, 255)]
    exponent = np.choose(kind, [rng.integers(a, b, count) for a, b in ranges]).astype(np.uint32)
    corner = rng.choice(np.array([0, 1, 0x7FFFFF, 0x400000, 0x7FFFFE], np.uint32), count)
    fraction = np.where(rng.integers(0, 3, count) == 0, corner, raw & 0x7FFFFF)
    x = raw & 0x80000000 | exponent << 23 | fraction
    x[rng.integers(0, 20, count) == 0] &= 0x80000000
    return x.astype(np.uint32)


def halves(count: int, rng: np.random.Generator = RNG) -> np.ndarray:
    """FP16 patterns of finite numbers, subnormals among them."""
    h = rng.integers(0, 2**16, count).astype(np.uint16)
    return np.where(h >> 10 & 31 == 31, h & 0x83FF, h).astype(np.uint16)


class Registered(Component):
    """A register behind a combinational function of its inputs.

    Latency: 1 cycle. Throughput: a result per cycle.
    """

    def __init__(self, build: Callable[..., Value], inputs: Sequence[ShapeLike], output: ShapeLike) -> None:
        self.build = build
        self.inputs = [given(shape, f"operand {k}") for k, shape in enumerate(inputs)]
        self.output = gives(output, "result")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.output.eq(self.build(m, *self.inputs))
        return m


def function(
    build: Callable[..., Value],
    operands: Sequence[tuple[ShapeLike, Values]],
    output: ShapeLike,
    results: Values,
    latency: int = 0,
) -> None:
    """Holds a function of ``latency`` cycles, combinational without, against ``results``; ``operands`` are shapes and values."""
    dut = Registered(build, [shape for shape, _ in operands], output)
    given = [(port, values) for port, (_, values) in zip(dut.inputs, operands, strict=True)]
    pipeline(dut, given, [(dut.output, results)], latency + 1)
