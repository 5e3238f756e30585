"""The soft cap of a score, and what waits for it."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Value
from amaranth.lib import data

from hw.arithmetic import symmetric
from hw.arithmetic.fp32 import Multiply
from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid
from hw.component import Component, given, gives
from hw.kv.query import query_depth
from hw.kv.softmax import rounds_kept
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics.tables import SIGMOID


class SoftCap(Component):
    """capped = factor * sigmoid(score), FP32; see :mod:`skipopu.numerics.soft_cap`.

    Latency: 10 cycles. Throughput: a score per cycle.

    Parameters:
        machine: with the widest ports its table lies in block RAM; of that the devices of others have less to spare than LUTs.
    """

    LATENCY = pipeline.SOFT_CAP

    def __init__(self, machine: Machine) -> None:
        self.block = machine.port_bits == 512
        self.score = given(32, "what is capped")
        self.factor = given(32, "twice the cap, for powers of two; stable while scores are under way")
        self.capped = gives(32, "the score's sigmoid times the factor")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.multiply = multiply = Multiply()
        m.d.comb += [
            multiply.a.eq(symmetric.symmetric(m, self.score, (SIGMOID,), 0, block=self.block)),
            multiply.b.eq(self.factor),  # at most twice the largest cap, so that no product is too large
            self.capped.eq(multiply.z),
        ]
        assert symmetric.LATENCY + Multiply.LATENCY == self.LATENCY
        return m


def behind(m: Module, capping: Value, value: Value, name: str, valid: bool = False) -> Value:
    """``value`` beside scores that come out of a :class:`SoftCap`; at once where none are ``capping``, which is stable meanwhile.

    ``valid``: it counts by itself, so that a reset clears it.
    """
    return Mux(capping, (delay_valid if valid else delay)(m, value, SoftCap.LATENCY, name), value)


class CappedStep(data.StructLayout):
    """The softmax step whose capped scores are there, as far as ports ask; capping: scores are capped, level, by ``factor``."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "lane": 2,
                "number": bits_for_index(query_depth(machine)),
                "parity": rounds_kept(machine),
                "capping": 1,
                "factor": 32,
            }
        )
