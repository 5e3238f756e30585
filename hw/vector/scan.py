"""ALIGN: passes vectors of the buffer by the aligner."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid
from hw.control.issue import Issue, field
from hw.memory.buffer import ELEMENT_ADDRESS_BITS, WordWrite
from skipopu.isa.spec import ALIGN, BUFFER_UNIT
from skipopu.machine.config import Machine


class ScanUnit(Component):
    """Reads each listed slot's vector, ``vector_lanes`` elements per cycle, as if it were just being written.

    Members: active, instruction (in); buffer read port; write_valid, write (out, to the group tracker); finish (out, level:
    the last word was shown), pause (in); working, waiting (out, for the counters).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        super().__init__(
            {
                "active": In(1),
                "instruction": In(Issue(machine)),
                "read_address": Out(ELEMENT_ADDRESS_BITS),
                "read_enable": Out(1),
                "read_data": In(32 * machine.vector_lanes),
                "write_valid": Out(1),
                "write": Out(WordWrite(machine)),
                "finish": Out(1),
                "pause": In(1),
                "working": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        word = self.instruction.word
        elements = field(word, ALIGN, "elements")
        slot, base, element = Signal(bits_for_index(machine.tokens)), Signal(ELEMENT_ADDRESS_BITS), Signal(20)
        reading = Signal()
        m.d.comb += [
            self.read_address.eq(base + element),
            self.read_enable.eq(reading),
            self.working.eq(reading),
            self.write_valid.eq(delay_valid(m, reading, 1, "valid")),
            self.write.slot.eq(delay(m, slot, 1, "slot")),
            self.write.address.eq(delay(m, self.read_address, 1, "address")),
            self.write.data.eq(self.read_data),
            self.write.enable.eq(delay(m, Cat(element + k < elements for k in range(lanes)), 1, "enable")),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [slot.eq(0), element.eq(0), base.eq(field(word, ALIGN, "src") * BUFFER_UNIT)]
                with m.If(self.active):
                    m.next = "SLOT"
            with m.State("SLOT"):
                m.next = "NEXT"
                with m.If(self.instruction.mask.bit_select(slot, 1)):
                    m.next = "READ"
            with m.State("READ"):
                with m.If(~self.pause):
                    m.d.comb += reading.eq(1)
                    m.d.sync += element.eq(element + lanes)
                    with m.If(element + lanes >= elements):
                        m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [slot.eq(slot + 1), element.eq(0), base.eq(base + field(word, ALIGN, "stride") * BUFFER_UNIT)]
                m.next = "SLOT"
                with m.If(slot == machine.tokens - 1):
                    m.next = "SHOWN"
            with m.State("SHOWN"):
                m.next = "FINISH"
            with m.State("FINISH"):
                m.d.comb += self.finish.eq(self.active)
                with m.If(~self.active):
                    m.next = "IDLE"
        return m
