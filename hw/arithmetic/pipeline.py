"""Small helpers for fixed-latency pipelines and balanced trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, ValueLike, unsigned

from skipopu.machine import pipeline

T = TypeVar("T")


def delay(m: Module, value: ValueLike, cycles: int, name: str = "delayed") -> Value:
    """``value`` behind ``cycles`` registers. Not inside an ``m.If``: the registers would load under its condition only."""
    current = Value.cast(value)
    for number in range(cycles):
        register = Signal(current.shape(), name=f"{name}_{number + 1}", reset_less=True)
        m.d.sync += register.eq(current)
        current = register
    return current


def delay_valid(m: Module, value: ValueLike, cycles: int, name: str = "valid") -> Value:
    """Like :func:`delay`, with registers that reset to zero."""
    current = Value.cast(value)
    for number in range(cycles):
        register = Signal(current.shape(), name=f"{name}_{number + 1}")
        m.d.sync += register.eq(current)
        current = register
    return current


def tree(items: Sequence[T], combine: Callable[[T, T], T]) -> T:
    """Reduces ``items`` by a balanced tree of ``combine``."""
    level = list(items)
    while len(level) > 1:
        paired = [combine(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = paired + ([level[-1]] if len(level) % 2 else [])
    return level[0]


LARGEST = pipeline.LARGEST


def largest_of(m: Module, items: Sequence[Value], name: str) -> Value:
    """The largest of up to 64 unsigned ``items``, LARGEST cycles later: of each eight, then of these."""
    return registered(m, largest(m, eights(m, items, largest, name), name), name)


def ones(m: Module, items: Sequence[Value], name: str) -> Value:
    """The sum of ``items``, combinational; of bits, how many are set."""
    return tree(items, lambda a, b: a + b)


def eights(
    m: Module, items: Sequence[Value], combine: Callable[[Module, Sequence[Value], str], Value], name: str
) -> list[Value]:
    """What ``combine`` makes of each eight ``items``, a cycle later."""
    parts = range(0, len(items), 8)
    return [registered(m, combine(m, items[k : k + 8], f"{name}_{k}"), f"{name}_of_{k}") for k in parts]


def largest(m: Module, items: Sequence[Value], name: str) -> Value:
    """The largest of unsigned ``items``, combinational; every comparison is a signal, so that none is written out again."""

    def larger(a: Value, b: Value) -> Value:
        nonlocal count
        result = Signal(max(len(a), len(b)), name=f"{name}_{count}")
        count += 1
        m.d.comb += result.eq(Mux(a > b, a, b))
        return result

    count = 0
    return tree(items, larger)


def registered(m: Module, value: Value, name: str) -> Signal:
    """One register behind ``value``."""
    register = Signal(value.shape(), name=name, reset_less=True)
    m.d.sync += register.eq(value)
    return register


def pipelined_tree(m: Module, items: Sequence[Value], combine: Callable[[Value, Value], Value], name: str) -> tuple[Value, int]:
    """Reduces ``items`` by a balanced tree, a register after every level: (result, latency in cycles)."""
    level, latency = list(items), 0
    while len(level) > 1:
        paired = [combine(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = paired + ([level[-1]] if len(level) % 2 else [])
        latency += 1
        level = [registered(m, value, f"{name}{latency}_{i}") for i, value in enumerate(level)]
    return level[0], latency


def adder_tree(m: Module, items: Sequence[Value], name: str = "sum") -> tuple[Value, int]:
    """Pipelined exact sum of ``items``: (sum, latency in cycles).

    One level a stage costs the fewest LUTs: carry chains alone, nothing for synthesis to merge into compressors.
    """
    return pipelined_tree(m, items, lambda a, b: a + b, name)


def negate_if(condition: Value, value: Value) -> Value:
    """-value or value, wide enough for both: one carry chain, where a choice between the two costs twice the LUTs."""
    bits = len(value) + 1
    extended = Cat(value, value[-1] if value.shape().signed else Const(0, 1))
    return ((extended ^ condition.replicate(bits)) + condition)[:bits].as_signed()


def bits_for_index(count: int) -> Shape:
    """Shape of an index below ``count`` (at least one bit)."""
    return unsigned(max(1, (count - 1).bit_length()))


def count_shape(limit: int) -> Shape:
    """Shape of a count up to and including ``limit``."""
    return unsigned(max(1, limit.bit_length()))


def round_to(value: Value, lanes: int) -> Value:
    """``value`` rounded up to a multiple of ``lanes``, a power of two."""
    bits = lanes.bit_length() - 1
    return Cat(Const(0, bits), (value + (lanes - 1)) >> bits)
