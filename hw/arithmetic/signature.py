"""The circuit of :mod:`skipopu.numerics.signature`."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Elaboratable, Module, Signal, Value, ValueLike

from hw.arithmetic.pipeline import delay, delay_valid, tree
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


class Signature(Elaboratable):
    """Sums hashes of up to ``lanes`` writes per cycle; ``total`` includes a write three cycles after it was presented.

    Attributes:
        clear: in, resets the total (writes still in flight are kept out by clearing before the first one).
        valid[k], where[k], value[k]: in, 1, 32 and 32 bits. total: 32 bits, out.
    """

    LATENCY = 3

    def __init__(self, lanes: int) -> None:
        self.clear = Signal()
        self.valid = [Signal(name=f"valid_{k}") for k in range(lanes)]
        self.where = [Signal(32, name=f"where_{k}") for k in range(lanes)]
        self.value = [Signal(32, name=f"value_{k}") for k in range(lanes)]
        self.total = Signal(32)

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
        with m.If(self.clear):
            m.d.sync += self.total.eq(0)
        with m.Else():
            m.d.sync += self.total.eq((self.total + tree(hashes, lambda a, b: (a + b)[:32]))[:32])
        return m
