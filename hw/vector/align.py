"""ALIGN: passes vectors of the buffer by the aligner."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal

from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid
from hw.component import Component, given, gives
from hw.control.issue import field
from hw.memory.buffer import BufferRead, WordWrite
from hw.vector.unit import Task
from hw.widths import ELEMENT_BITS
from skipopu.isa.spec import ALIGN, BUFFER_UNIT
from skipopu.machine.config import Machine


class AlignUnit(Component):
    """Reads each listed slot's vector, ``vector_lanes`` elements per cycle, as if it were just being written.

    Latency: 1 cycle from a read to the word shown; 3 from the last read to ``finish`` where the last slot is listed, 2 for each
    slot after it. Throughput: a word per cycle, with 2 cycles between slots.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.task = given(Task(machine), "ALIGN to execute", "{}")
        self.read = gives(BufferRead(machine), "a port of the buffer", "read_{}")
        self.write_valid = gives(1, "a word is shown to the group tracker")
        self.write = gives(WordWrite(machine), "that word")
        self.finish = gives(1, "level: every word was shown, the aligner may close")
        self.aligned = given(1, "the aligner is done")
        self.pause = given(1, "no more words for now")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        word = self.task.instruction.word
        elements = field(word, ALIGN, "elements")
        slot, base, element = Signal(bits_for_index(machine.tokens)), Signal(ELEMENT_BITS), Signal(ELEMENT_BITS)
        reading = Signal()
        m.d.comb += [
            self.read.address.eq(base + element),
            self.read.enable.eq(reading),
            self.task.working.eq(reading),
            self.write_valid.eq(delay_valid(m, reading, 1, "valid")),
            self.write.slot.eq(delay(m, slot, 1, "slot")),
            self.write.address.eq(delay(m, self.read.address, 1, "address")),
            self.write.data.eq(self.read.data),
            self.write.enable.eq(delay(m, Cat(element + k < elements for k in range(lanes)), 1, "enable")),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [slot.eq(0), element.eq(0), base.eq(field(word, ALIGN, "src") * BUFFER_UNIT)]
                with m.If(self.task.active):
                    m.next = "SLOT"
            with m.State("SLOT"):
                m.next = "NEXT"
                with m.If(self.task.instruction.mask.bit_select(slot, 1)):
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
                m.d.comb += [self.finish.eq(self.task.active), self.task.done.eq(self.finish & self.aligned)]
                with m.If(~self.task.active):
                    m.next = "IDLE"
        return m
