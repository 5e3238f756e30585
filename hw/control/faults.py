"""Which of the units' faults stops the machine."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Signal

from hw.arithmetic.pipeline import delay, delay_valid
from hw.component import Component, given, gives
from skipopu.isa.registers import ERROR_BITS, Error
from skipopu.isa.spec import PC_BITS
from skipopu.machine import pipeline


class Faults(Component):
    """The last of several simultaneous causes is reported.

    Latency: LATENCY cycles. Throughput: a fault per cycle.

    Parameters:
        codes: of the causes, in rising priority.
    """

    LATENCY = pipeline.FAULT

    def __init__(self, codes: Sequence[Error]) -> None:
        self.codes = tuple(codes)
        self.causes = [given(1, f"{code.name} is to be reported") for code in self.codes]
        self.pcs = [given(PC_BITS, f"index of the instruction that brought {code.name}") for code in self.codes]
        self.fault = gives(1, "there is a fault")
        self.code = gives(ERROR_BITS, "its error code")
        self.pc = gives(PC_BITS, "the instruction to name")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m, fault = Module(), Signal()
        m.d.sync += self.fault.eq(fault)
        for code, cause, at in zip(self.codes, self.causes, self.pcs, strict=True):
            came, pc = delay_valid(m, cause, 1, "came"), delay(m, at, 1, "pc")
            with m.If(came):
                m.d.comb += fault.eq(1)
                m.d.sync += [self.code.eq(code), self.pc.eq(pc)]
        return m
