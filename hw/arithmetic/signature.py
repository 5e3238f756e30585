"""The circuit of :mod:`skipopu.numerics.signature`."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Signal, Value, ValueLike

from hw.arithmetic.pipeline import delay, delay_valid, eights, tree
from hw.component import Component, given, gives
from skipopu.machine import pipeline
from skipopu.numerics.signature import KIND_SHIFT, SLOT_SHIFT


def index(kind: ValueLike, slot: Value, element: Value) -> Value:
    """32-bit index of an element of a slot."""
    low = Cat(element, Const(0, SLOT_SHIFT))[:SLOT_SHIFT]
    middle = Cat(slot, Const(0, KIND_SHIFT - SLOT_SHIFT))[: KIND_SHIFT - SLOT_SHIFT]
    return Cat(low, middle, Value.cast(kind))[:32]


def lane(base: Value, k: int, lanes: int) -> Value:
    """``base`` + k for a ``base`` that is a multiple of ``lanes``: constant low bits, so that most of the hash's rotation is wiring."""
    bits = lanes.bit_length() - 1
    return Cat(Const(k, bits), base[bits:])


def mix(m: Module, where: Value, value: Value, name: str) -> Value:
    """hash(index, value), combinational."""
    i = Cat(where, Const(0, 32))[:32]
    v = Signal(32, name=f"{name}_mixed")
    m.d.comb += v.eq(value ^ i ^ (i << 11)[:32] ^ (i << 22)[:32])
    return (Cat(v, v) << i[:5])[32:64]


class Signature(Component):
    """Sums hashes of writes. Clearing does not reach writes whose hashes are under way.

    Latency: 4 cycles from a write to the total that includes it. Throughput: ``lanes`` writes per cycle.

    Parameters:
        lanes: writes at once.
    """

    LATENCY = pipeline.SIGNATURE

    def __init__(self, lanes: int) -> None:
        self.clear = given(1, "the total starts again")
        self.valid = [given(1, f"lane {k} writes") for k in range(lanes)]
        self.where = [given(32, f"index of what lane {k} writes") for k in range(lanes)]
        self.value = [given(32, "what it writes") for k in range(lanes)]
        self.total = gives(32, "sum of the hashes, modulo 2^32")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        hashes: list[Value] = []
        for k, (valid, where, value) in enumerate(zip(self.valid, self.where, self.value, strict=True)):
            hashed = Signal(32, name=f"hash_{k}")
            m.d.sync += hashed.eq(mix(m, delay(m, where, 1, f"w{k}"), delay(m, value, 1, f"v{k}"), f"m{k}"))
            gated = Signal(32, name=f"gated_{k}")
            with m.If(delay_valid(m, valid, 2, f"g{k}")):
                m.d.comb += gated.eq(hashed)
            hashes.append(gated)

        def added(m: Module, items: Sequence[Value], name: str) -> Value:
            return tree(items, lambda a, b: (a + b)[:32])

        parts = eights(m, hashes, added, "parts")
        with m.If(self.clear):
            m.d.sync += self.total.eq(0)
        with m.Else():
            m.d.sync += self.total.eq(added(m, [self.total, *parts], "total"))
        return m
