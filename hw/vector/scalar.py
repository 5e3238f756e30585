"""The vector unit's scalar FP32 unit: one operation at a time for norms and routing."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.fp32 import Add, FromInteger, Multiply
from hw.arithmetic.quadratic import Quadratic
from skipopu.numerics.tables import OUTPUT_BITS, RSQRT


class ScalarUnit(Component):
    """a + b, a * b or 1/sqrt(a); one operation in flight.

    Members: operation (in: 0 add, 1 multiply, 2 reciprocal square root), a, b, start (in); busy (out, from the cycle after
    start until the result is there), result (out, valid when not busy, held); saturated (out).
    """

    ADD, MULTIPLY, RSQRT = range(3)
    LATENCY = 1 + Quadratic.LATENCY + FromInteger.LATENCY + 1

    def __init__(self) -> None:
        super().__init__(
            {
                "operation": In(2),
                "a": In(32),
                "b": In(32),
                "start": In(1),
                "busy": Out(1),
                "result": Out(32),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.add = add = Add()
        m.submodules.multiply = multiply = Multiply()
        m.submodules.table = table = Quadratic((RSQRT,))
        m.submodules.convert = convert = FromInteger(OUTPUT_BITS + 2)
        a, b, operation = Signal(32), Signal(32), Signal(2)
        left = Signal(range(self.LATENCY + 1))
        with m.If(self.start):
            m.d.sync += [a.eq(self.a), b.eq(self.b), operation.eq(self.operation), left.eq(self.LATENCY)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        half = Signal(9)
        odd = ~a[23]  # biased exponent minus 127 is odd
        m.d.comb += [
            add.a.eq(a),
            add.b.eq(b),
            multiply.a.eq(a),
            multiply.b.eq(b),
            table.u.eq(Cat(a[:23], odd)),
            convert.mantissa.eq(Cat(table.y, Const(0, 1)).as_signed()),
            # floor((e - 127) / 2) = (e - 127 - odd) / 2
            half.eq((a[23:31] + (1 - odd)) >> 1),
            convert.exponent.eq(64 - half - OUTPUT_BITS),
            self.busy.eq(left != 0),
            self.saturated.eq((left == 1) & Mux(operation == self.ADD, add.saturated, (operation == 1) & multiply.saturated)),
            add.valid.eq(1),
            multiply.valid.eq(1),
        ]
        with m.If(left == 1):
            m.d.sync += self.result.eq(
                Mux(operation == self.ADD, add.z, Mux(operation == self.MULTIPLY, multiply.z, convert.z))
            )
        return m
