"""STORE: vectors from the buffer to memory, FP32."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream

from hw.arithmetic.pipeline import bits_for_index, registered
from hw.arithmetic.signature import Signature, index
from hw.component import Component, given, gives
from hw.control.issue import field
from hw.memory.axi import ADDRESS_BITS
from hw.memory.buffer import BufferRead, lane_of
from hw.memory.reader import Run
from hw.memory.writer import WriteBeat
from hw.vector.unit import Task
from hw.widths import ELEMENT_BITS, POSITION_BITS
from skipopu.isa.spec import ADDRESS_SHIFT, BUFFER_UNIT, STORE
from skipopu.machine.config import Machine


class StoreUnit(Component):
    """Packs the listed slots' elements into beats of port 0; the last beat's unused bytes are not written.

    Latency: 2 cycles from ``active`` to the first slot's run, 2 n + 1 from a run to its first beat of n elements, Signature.LATENCY + 2 from the last
    slot's ``written`` to ``done``; 3 more for each slot that is not listed. Throughput: an element every 2 cycles, and a cycle for
    each beat; a slot's run waits until the one before is in memory.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.task = given(Task(machine), "STORE to execute", "{}")
        self.read = gives(BufferRead(machine), "a port of the buffer", "read_{}")
        self.runs = gives(stream.Signature(Run(machine)), "runs of beats to write, one per listed slot")
        self.beats = gives(stream.Signature(WriteBeat(machine)), "what they write")
        self.written = given(1, "the run is in memory")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        word = self.task.instruction.word
        elements = field(word, STORE, "elements")
        per_beat = machine.port_bits // 32
        beat_shift = (machine.beat_bytes - 1).bit_length()
        m.submodules.writes = writes = Signature(1)
        slot, base = Signal(bits_for_index(machine.tokens)), Signal(ELEMENT_BITS)
        element, piece = Signal(ELEMENT_BITS), Signal(range(max(2, per_beat)))
        beat, strobe = Signal(machine.port_bits), Signal(machine.beat_bytes)
        row_address = Signal(ADDRESS_BITS)  # 64-byte units
        settle, sending = Signal(3), Signal()
        position = registered(m, (self.task.instruction.position + slot)[:POSITION_BITS], "position")
        m.d.sync += row_address.eq(self.task.instruction.address + position * field(word, STORE, "row"))
        m.d.comb += [
            self.task.digest.eq(writes.total),
            self.read.address.eq(base + element),
            self.beats.valid.eq(sending),
            self.beats.payload.data.eq(beat),
            self.beats.payload.strobe.eq(strobe),
            self.runs.payload.beat.eq(row_address << (ADDRESS_SHIFT - beat_shift)),
            self.runs.payload.count.eq((elements + (per_beat - 1)) >> (per_beat.bit_length() - 1)),
        ]
        waiting_written = Signal()
        m.d.comb += [
            self.task.working.eq(self.read.enable | (self.beats.valid & self.beats.ready)),
            self.task.waiting.eq(
                (self.runs.valid & ~self.runs.ready) | (self.beats.valid & ~self.beats.ready) | waiting_written
            ),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.task.active):
                    m.d.comb += writes.clear.eq(1)
                    m.d.sync += base.eq(field(word, STORE, "src") * BUFFER_UNIT)
                    m.next = "SLOT"
            with m.State("SLOT"):
                m.d.sync += [element.eq(0), piece.eq(0), strobe.eq(0)]
                m.next = "NEXT"
                with m.If(self.task.instruction.mask.bit_select(slot, 1)):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.runs.valid.eq(1)
                with m.If(self.runs.ready):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.read.enable.eq(1)
                m.next = "TAKE"
            with m.State("TAKE"):
                value = self.read.data.word_select(lane_of(machine, self.read.address), 32)
                m.d.comb += [
                    writes.valid[0].eq(1),
                    writes.where[0].eq(index(0, slot, element)),
                    writes.value[0].eq(value),
                ]
                m.d.sync += [
                    beat.word_select(piece, 32).eq(value),
                    strobe.word_select(piece, 4).eq(15),
                    piece.eq(Mux(piece == per_beat - 1, 0, piece + 1)),
                    element.eq(element + 1),
                ]
                m.next = "READ"
                with m.If((piece == per_beat - 1) | (element == elements - 1)):
                    m.d.sync += sending.eq(1)
                    m.next = "SEND"
            with m.State("SEND"):
                with m.If(self.beats.ready):
                    m.d.sync += [sending.eq(0), strobe.eq(0)]
                    m.next = "READ"
                    with m.If(element == elements):
                        m.next = "WRITTEN"
            with m.State("WRITTEN"):
                m.d.comb += waiting_written.eq(1)
                with m.If(self.written):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [slot.eq(slot + 1), base.eq(base + field(word, STORE, "stride") * BUFFER_UNIT), settle.eq(0)]
                m.next = "WAIT"
                with m.If(slot == machine.tokens - 1):
                    m.next = "SETTLE"
            with m.State("WAIT"):
                m.next = "SLOT"
            with m.State("SETTLE"):
                m.d.sync += [slot.eq(0), settle.eq(settle + 1)]
                with m.If(settle == Signature.LATENCY):
                    m.d.comb += self.task.done.eq(1)
                    m.next = "IDLE"
        return m
