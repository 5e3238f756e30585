"""The piecewise quadratic evaluator of :mod:`skipopu.numerics.tables`, with one or several tables."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, registered
from hw.component import Component, given, gives
from skipopu.machine import pipeline
from skipopu.numerics.tables import OUTPUT_BITS, QuadraticTable


def _signed_width(low: int, high: int) -> int:
    return max(low.bit_length() if low >= 0 else (-low - 1).bit_length(), high.bit_length()) + 1


class Quadratic(Component):
    """y = table(u).

    Latency: 5 cycles. Throughput: a value per cycle.

    Parameters:
        tables: what ``select`` chooses from.
        block: they lie in block RAM, whatever their size.
    """

    LATENCY = pipeline.QUADRATIC

    def __init__(self, tables: Sequence[QuadraticTable], block: bool = False) -> None:
        self.tables, self.block = tuple(tables), block
        self.select = given(bits_for_index(len(tables)), "index of the table")
        self.u = given(max(t.argument_bits for t in tables), "argument, as wide as the widest table's")
        self.y = gives(OUTPUT_BITS + 1, f"the table's value in units of 2^-{OUTPUT_BITS}")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = [row for table in self.tables for row in table.coefficients.tolist()]
        widths = [_signed_width(min(r[i] for r in rows), max(r[i] for r in rows)) for i in range(3)]
        packed = [
            sum((value & (1 << w) - 1) << sum(widths[:i]) for i, (value, w) in enumerate(zip(r, widths, strict=True)))
            for r in rows
        ]
        # Bits that all rows agree on are no memory's.
        differ = functools.reduce(operator.or_, (row ^ packed[0] for row in packed), 1)
        kept = [bit for bit in range(sum(widths)) if differ >> bit & 1]
        m.submodules.rom = rom = Memory(
            shape=len(kept),
            depth=len(rows),
            init=[sum((row >> bit & 1) << k for k, bit in enumerate(kept)) for row in packed],
            attrs={"ram_style": "block"} if self.block else {},
        )
        port = rom.read_port()
        offset_bits = max(t.offset_bits for t in self.tables)
        x_0 = Signal(offset_bits)
        start = 0
        chosen = delay(m, self.select, 2, "chosen")
        for number, table in enumerate(self.tables):
            with m.If(self.select == number):
                m.d.comb += port.addr.eq(start + self.u[table.offset_bits : table.argument_bits])
                m.d.sync += x_0.eq(self.u[: table.offset_bits])
            start += len(table.coefficients)
        # The memory's output register
        read, x = registered(m, port.data, "data"), registered(m, x_0, "x")
        data = Cat(read[kept.index(bit)] if bit in kept else Const(packed[0] >> bit & 1, 1) for bit in range(sum(widths)))
        c0, c1, c2 = (data[sum(widths[:i]) : sum(widths[: i + 1])].as_signed() for i in range(3))

        def scaled(product: Value, which: Value) -> Value:
            """product >> offset_bits of the chosen table, arithmetic."""
            result: Value = product >> self.tables[0].offset_bits
            for number, table in enumerate(self.tables[1:], 1):
                result = Mux(which == number, product >> table.offset_bits, result)
            return result

        unsigned_x = Cat(x, Signal()).as_signed()
        # 1: c2 * x
        square = Signal(signed(widths[2] + offset_bits + 1))
        m.d.sync += square.eq(c2 * unsigned_x)
        c0_1, x_1, chosen_1 = (delay(m, v, 1, n) for v, n in ((c0, "c0"), (unsigned_x, "x_at"), (chosen, "chosen_at")))
        c1_1 = delay_valid(m, c1, 1, "c1")  # with a reset, or it would end a shift register, which is slow
        # 2: (c1 + ...) * x
        inner = Signal(signed(max(widths[1], widths[2]) + 1))
        m.d.comb += inner.eq(c1_1 + scaled(square, chosen_1))
        linear = Signal(signed(len(inner) + offset_bits + 1))
        m.d.sync += linear.eq(inner * x_1)
        c0_2, chosen_2 = delay(m, c0_1, 1, "c0"), delay(m, chosen_1, 1, "chosen_at")
        # 3: c0 + ...
        m.d.sync += self.y.eq(c0_2 + scaled(linear, chosen_2))
        return m
