"""Element-wise work on a pair of results: 1/rms, rotation, gated activation, residual addition."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from hw.arithmetic.fp32 import Add, Multiply
from hw.arithmetic.pipeline import delay, delay_valid, registered
from hw.arithmetic.symmetric import symmetric
from hw.component import Component, given, gives
from skipopu.isa.spec import Epilogue
from skipopu.machine import pipeline
from skipopu.numerics.activation import Activation
from skipopu.numerics.tables import GELU_TANH, NORMAL, SIGMOID

ONE = 0x3F800000


class Finish(Component):
    """Finishes one pair of rows; what all pairs share is stable from a cycle before the first one until the last result.

    Latency: LATENCY cycles. Throughput: a pair per cycle.

    Parameters:
        tanh: it knows Activation.GELU_TANH.
        early: what is added stands in a register before, not at the end of a shift register.
    """

    FACTOR = pipeline.FACTOR  # scaled result to the activation's factor
    LATENCY = pipeline.FINISH

    def __init__(self, tanh: bool = False, early: bool = False) -> None:
        self.tanh, self.early = tanh, early
        self.kind = given(3, "an Epilogue")
        self.activation = given(3, "an Activation, of a gated pair")
        self.parameter = given(32, "its parameter, FP32")
        self.valid = given(1, "a pair")
        self.rotate = given(1, "it is to be rotated")
        self.even = given(32, "sum of the even row, of the gate in a gated pair")
        self.odd = given(32, "sum of the odd row")
        self.scale = given(32, "factor of both: 1/rms or 1")
        self.cos = given(32, "cosine of the rotation")
        self.sin = given(32, "its sine")
        self.residual_even = given(32, "what is added to the even row")
        self.residual_odd = given(32, "what is added to the odd row")
        self.result_even = gives(32, "result of the even row, or of the gated pair")
        self.result_odd = gives(32, "result of the odd row")
        self.saturated = gives(1, "a step was too large for FP32")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        flags: list[Value] = []

        def multiply(name: str, a: Value, b: Value, valid: Value) -> Value:
            unit = Multiply()
            m.submodules[name] = unit
            m.d.comb += [unit.a.eq(a), unit.b.eq(b), unit.valid.eq(valid)]
            flags.append(unit.saturated)
            return unit.z

        gated, residual = (
            registered(m, self.kind == kind, name)
            for kind, name in ((Epilogue.GATED, "gated"), (Epilogue.RESIDUAL, "residual"))
        )
        # Times 1/rms
        even = multiply("scale_even", self.even, self.scale, self.valid)
        odd = multiply("scale_odd", self.odd, self.scale, self.valid)
        at = Multiply.LATENCY
        gating = delay_valid(m, self.valid & gated, at, "gating")
        product = multiply("gate", even, odd, gating)
        cos_before = delay(m, self.cos, at + self.FACTOR - 1, "cos_before")
        factor = self._factor(m, multiply, even, gating, gated, cos_before)
        at += self.FACTOR
        # What is multiplied first is chosen a cycle before.
        even = delay(m, even, self.FACTOR - 1, "even_before")
        product = delay(m, product, self.FACTOR - Multiply.LATENCY - 1, "product")
        chosen = registered(m, Mux(gated, product, even), "chosen")
        even, odd = registered(m, even, "even"), delay(m, odd, self.FACTOR, "odd")
        cos, sin = registered(m, cos_before, "cos"), delay(m, self.sin, at, "sin")
        rotate, valid = delay(m, self.rotate, at, "rotate"), delay_valid(m, self.valid, at, "valid")
        turning = valid & rotate
        # Even: even * cos - odd * sin, or the gated product; odd: odd * cos + even * sin
        first = multiply("first", chosen, factor, turning | (valid & gated))
        minus = multiply("minus", odd, sin, turning)
        second, plus = multiply("second", odd, cos, turning), multiply("plus", even, sin, turning)
        at += Multiply.LATENCY
        even, odd = delay(m, even, Multiply.LATENCY, "plain_even"), delay(m, odd, Multiply.LATENCY, "plain_odd")
        rotate = delay(m, rotate, Multiply.LATENCY, "rotated")
        valid = delay_valid(m, valid, Multiply.LATENCY, "adding")
        for name, plain, a, b, kept, result in (
            ("even", even, first, minus, self.residual_even, self.result_even),
            ("odd", odd, second, plus, self.residual_odd, self.result_odd),
        ):
            m.submodules[f"add_{name}"] = add = Add()
            own = delay_valid(m, delay(m, kept, at - self.early, f"residual_{name}"), int(self.early), f"own_{name}")
            m.d.comb += [
                add.a.eq(Mux(residual, own, a)),
                add.b.eq(Mux(residual, plain, b)),
                add.subtract.eq(~residual & (name == "even")),
                add.valid.eq(valid & (residual | rotate)),
            ]
            flags.append(add.saturated)
            unchanged = delay(m, Mux(gated, first, plain) if name == "even" else plain, Add.LATENCY, f"unchanged_{name}")
            added = delay(m, residual | rotate, Add.LATENCY, f"added_{name}")
            m.d.comb += result.eq(Mux(added, add.z, unchanged))
        assert at + Add.LATENCY == self.LATENCY
        m.d.comb += self.saturated.eq(Cat(flags).any())
        return m

    def _factor(
        self,
        m: Module,
        multiply: Callable[[str, Value, Value, Value], Value],
        gate: Value,
        valid: Value,
        gated: Value,
        cos: Value,
    ) -> Value:
        """What gate * up is multiplied by, see :func:`skipopu.numerics.activation.factor`; of no gated pair ``cos``, which comes a cycle
        before."""
        swish = registered(m, self.activation == Activation.SWISH, "swish")
        parameter = registered(m, Mux(self.activation == Activation.SWISH, self.parameter, ONE), "argument_factor")
        argued = multiply("argument", gate, parameter, valid & swish)
        which: Value = self.activation == Activation.GELU
        if self.tanh:
            which = Mux(self.activation == Activation.GELU_TANH, 2, which)
        smooth = symmetric(m, argued, (SIGMOID, NORMAL, GELU_TANH) if self.tanh else (SIGMOID, NORMAL), which)
        gate = delay(m, gate, self.FACTOR - 1, "gate")
        other, is_smooth = Signal(32), Signal()
        with m.Switch(self.activation):
            with m.Case(Activation.RELU):
                m.d.comb += other.eq(Mux(gate[31], 0, ONE))
            with m.Case(Activation.RELU2):
                m.d.comb += other.eq(Mux(gate[31], 0, gate))
            with m.Case(Activation.LEAKY_RELU):
                m.d.comb += other.eq(Mux(gate[31], self.parameter, ONE))
            with m.Default():
                m.d.comb += is_smooth.eq(gated)
        return Mux(registered(m, is_smooth, "is_smooth"), smooth, registered(m, Mux(gated, other, cos), "other_factor"))
