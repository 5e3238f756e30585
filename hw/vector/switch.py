"""The vector queue's units: one of them at a time, by opcode."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value

from hw.component import Component, given, gives
from hw.control.issue import field
from hw.memory.buffer import BufferRead
from hw.vector.unit import Task
from skipopu.isa.fields import Instruction
from skipopu.isa.spec import ADJUST, ALIGN, EMBED, KVWRITE, OPCODE_BITS, ROUTE, STORE, AlignTarget
from skipopu.machine.config import Machine

ALIGNING = (
    EMBED,
    ALIGN,
)  # those whose results the aligner aligns: its digest is theirs too, and that of an ADJUST that says so


def units(machine: Machine) -> tuple[Instruction, ...]:
    """Instructions of the vector queue, a unit each."""
    return (EMBED, ALIGN, ROUTE, KVWRITE, STORE, *([ADJUST] if machine.adjust else []))


class VectorSwitch(Component):
    """Hands the queue's instruction to its unit, and one port of the buffer.

    Latency: none, combinational; 1 cycle to ``working`` and ``waiting`` of the queue, which are counted only. Throughput: that of the units.
    """

    def __init__(self, machine: Machine) -> None:
        self.units = units(machine)
        self.reading = self.units[1:]  # the buffer: all but EMBED
        self.queue = given(Task(machine), "the instruction at its head", "queue_{}")
        self.tasks = [gives(Task(machine), i.name, f"{i.name.lower()}_{{}}") for i in self.units]
        self.readers = [given(BufferRead(machine), i.name, f"{i.name.lower()}_read_{{}}") for i in self.reading]
        self.read = gives(BufferRead(machine), "a port of the buffer", "read_{}")
        self.aligned_digest = given(32, "of what was aligned")
        self.selected = gives(len(self.units), "whose instruction stands at the queue's head, in the units' order")
        super().__init__()

    def of(self, instruction: Instruction) -> Task:
        """The task of ``instruction``'s unit."""
        return self.tasks[self.units.index(instruction)]

    def chosen(self, instruction: Instruction) -> Value:
        """Whether ``instruction`` stands at the queue's head."""
        return self.selected[self.units.index(instruction)]

    def reader(self, instruction: Instruction) -> BufferRead:
        """The read port of ``instruction``'s unit."""
        return self.readers[self.reading.index(instruction)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queue, opcode = self.queue, self.queue.instruction.word[:OPCODE_BITS]
        working, waiting = Signal(), Signal()
        m.d.sync += [queue.working.eq(working), queue.waiting.eq(waiting)]
        for k, instruction in enumerate(self.units):
            task, here = self.tasks[k], self.selected[k]
            m.d.comb += [
                here.eq(opcode == instruction.opcode),
                task.active.eq(queue.active & here),
                task.instruction.eq(queue.instruction),
            ]
            with m.If(here):
                aligned: Value = self.aligned_digest if instruction in ALIGNING else Const(0, 32)
                if instruction is ADJUST:  # beside it, a product's results may be aligned
                    aligned = Mux(field(queue.instruction.word, ADJUST, "align") != AlignTarget.NONE, self.aligned_digest, 0)
                m.d.comb += [queue.done.eq(task.done), queue.digest.eq(task.digest + aligned)]
                with m.If(queue.active):
                    m.d.comb += [working.eq(task.working), waiting.eq(task.waiting)]
            if instruction in self.reading:
                reader = self.reader(instruction)
                m.d.comb += reader.data.eq(self.read.data)
                with m.If(here):
                    m.d.comb += [self.read.address.eq(reader.address), self.read.enable.eq(reader.enable)]
        return m
