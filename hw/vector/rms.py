"""1/rms of each slot, from the mantissas that the array multiplies."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed

from hw.arithmetic.fp32 import Add, AddPositive, FromInteger, Multiply
from hw.arithmetic.pipeline import adder_tree, bits_for_index, delay, delay_valid, registered
from hw.arithmetic.quadratic import Quadratic
from hw.component import Component, given, gives
from hw.pe.tokens import FEW
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS
from skipopu.numerics.tables import OUTPUT_BITS, RSQRT


def inverse_root(m: Module, total: Value, inverse_size: Value, epsilon: Value, valid: Value) -> tuple[Value, tuple[Value, ...]]:
    """1 / sqrt(total * inverse_size + epsilon), NORM cycles later; whether steps saturated, where ``valid`` came in."""
    m.submodules.mean = mean = Multiply()
    m.submodules.shifted = shifted = Add()
    m.submodules.root = root = Quadratic((RSQRT,))
    m.submodules.rounded = rounded = FromInteger(OUTPUT_BITS + 2)
    odd = ~shifted.z[23]  # biased exponent minus 127 is odd
    half = Signal(9)
    m.d.comb += [
        mean.a.eq(total),
        mean.b.eq(inverse_size),
        mean.valid.eq(valid),
        shifted.a.eq(mean.z),
        shifted.b.eq(epsilon),
        shifted.valid.eq(delay_valid(m, valid, Multiply.LATENCY, "averaging")),
        root.u.eq(Cat(shifted.z[:23], odd)),
        # floor((e - 127) / 2) = (e - 127 - odd) / 2
        half.eq((shifted.z[23:31] + (1 - odd)) >> 1),
        rounded.mantissa.eq(Cat(root.y, Const(0, 1)).as_signed()),
        rounded.exponent.eq(64 - delay(m, half, Quadratic.LATENCY, "half") - OUTPUT_BITS),
    ]
    return rounded.z, (mean.saturated, shifted.saturated)


class InverseRms(Component):
    """Squares are summed exactly within a group, rounded once, and added to their slot's total; see :mod:`skipopu.numerics.align`.

    Latency: pipeline.squared cycles from a group's last word to its slot's total, LATENCY from a request to ``kept``. Throughput: a word
    and a request per cycle; between the last words of a slot's groups at least AddPositive.LATENCY + 1 cycles.
    """

    LATENCY = pipeline.SLOT_NORM

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        self.clear = given(1, "every slot's total starts again")
        self.enable = given(1, "words are of the residual and count")
        self.valid = given(1, "a word")
        self.mantissas = [given(signed(ALIGNED_BITS), f"its mantissa {k}") for k in range(machine.vector_lanes)]
        self.exponent = given(8, "its group's exponent")
        self.slot = given(slot, "token slot that it belongs to")
        self.first = given(1, "it is its group's first")
        self.last = given(1, "it is its group's last")
        self.inverse_size = given(32, "1 / elements of the residual, FP32")
        self.epsilon = given(32, "what is added to the mean square, FP32")
        self.request = given(1, "1/rms of a slot is wanted, its total is complete")
        self.request_slot = given(slot, "that slot")
        self.kept = gives(1, "1/rms of a slot is there")
        self.kept_slot = gives(slot, "that slot")
        self.kept_value = gives(32, "its 1/rms, FP32")
        self.inverse_rms = gives(32 * machine.tokens, "the latest of each slot, a cycle after kept")
        self.saturated = gives(1, "a step was too large for FP32")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        assert machine.weight_lanes // machine.vector_lanes > AddPositive.LATENCY, "a slot's totals follow one another"
        totals = [Signal(32, name=f"total_{s}") for s in range(machine.tokens)]
        m.submodules.convert = convert = FromInteger(47)
        m.submodules.add = add = AddPositive()
        # A group's sum, then the slot's total
        squares, added = adder_tree(m, [registered(m, a * a, f"square_{k}") for k, a in enumerate(self.mantissas)], "squares")
        at_sum = 1 + added
        assert at_sum + 1 == pipeline.squares(machine)
        running = Signal(46)
        squared, first_square = delay_valid(m, self.valid, at_sum, "squared"), delay(m, self.first, at_sum, "first_square")
        with m.If(squared):
            m.d.sync += running.eq(squares.as_unsigned() + Mux(first_square, 0, running))
        converting = delay_valid(m, self.valid & self.last & self.enable, at_sum + 1, "converting")
        adding = delay_valid(m, converting, FromInteger.LATENCY, "adding")
        slot = delay(m, self.slot, at_sum + 1 + FromInteger.LATENCY, "add_slot")
        many = machine.tokens > FEW  # the choice between totals takes a cycle of its own, in which one may be written
        own_total = Signal(32, name="own_total", reset_less=True) if many else Array(totals)[slot]
        m.d.comb += [
            convert.mantissa.eq(Cat(running, Const(0, 1)).as_signed()),
            convert.exponent.eq((delay(m, self.exponent, at_sum + 1, "square_exponent") << 1) - 2 * ALIGNED_BIAS),
            convert.valid.eq(converting),
            add.a.eq(own_total),
            add.b.eq(convert.z),
            add.valid.eq(adding),
        ]
        written, added_slot = delay_valid(m, adding, add.LATENCY, "added"), delay(m, slot, add.LATENCY, "added_slot")
        if many:
            chosen = delay(m, self.slot, at_sum + FromInteger.LATENCY, "chosen_slot")
            before = Mux(written & (added_slot == chosen), add.z, Array(totals)[chosen])
            m.d.sync += own_total.eq(before)
        for s, total in enumerate(totals):
            with m.If(self.clear):
                m.d.sync += total.eq(0)
            with m.Elif(written & (added_slot == s)):
                m.d.sync += total.eq(add.z)

        # 1 / sqrt(total / size + epsilon)
        total, wanted = registered(m, Array(totals)[self.request_slot], "total"), delay_valid(m, self.request, 1, "wanted")
        inverse, saturated = inverse_root(m, total, self.inverse_size, self.epsilon, wanted)
        m.d.comb += [
            self.kept.eq(delay_valid(m, self.request, self.LATENCY, "kept")),
            self.kept_slot.eq(delay(m, self.request_slot, self.LATENCY, "kept_slot")),
            self.kept_value.eq(inverse),
            self.saturated.eq(convert.saturated | add.saturated | saturated[0] | saturated[1]),
        ]
        registers = [Signal(32, name=f"inverse_rms_{s}") for s in range(machine.tokens)]
        for s, register in enumerate(registers):
            with m.If(self.kept & (self.kept_slot == s)):
                m.d.sync += register.eq(self.kept_value)
        m.d.comb += self.inverse_rms.eq(Cat(registers))
        return m
