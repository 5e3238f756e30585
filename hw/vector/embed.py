"""EMBED: token ids, embedding rows and rotary rows from memory."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import bits_for_index, registered
from hw.arithmetic.signature import Signature, index, lane
from hw.component import Component, given, gives
from hw.control.issue import field
from hw.memory.axi import ADDRESS_BITS
from hw.memory.buffer import WordWrite
from hw.memory.reader import Run
from hw.pe.rotary import RotaryWrite
from hw.vector.row import RowReader
from hw.vector.unit import Task
from hw.widths import ELEMENT_BITS, POSITION_BITS
from skipopu.isa.spec import ADDRESS_SHIFT, BUFFER_UNIT, EMBED
from skipopu.machine.config import Machine


class EmbedUnit(Component):
    """Per slot: the token id (port 0), the row's parts from every port in turn, the rotary row (port 0).

    Latency: 2 cycles from ``active`` to the first slot's run, 2 from a token id's beat to its row's first run, 2 from a row's beat
    to its first word, more of several ports as in :class:`hw.vector.row.RowReader`. Throughput: the row's as there, a rotary number per
    cycle; one memory access after the other.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        ports = range(machine.ports)
        self.runs = [gives(stream.Signature(Run(machine)), f"runs of beats wanted of port {p}") for p in ports]
        self.beats = [given(stream.Signature(machine.port_bits), f"port {p}'s beats") for p in ports]
        self.task = given(Task(machine), "EMBED to execute", "{}")
        self.bad_token = gives(1, "a token id is not below the vocabulary; the unit stops")
        self.tokens = given(32, "address of the token ids, in 64-byte units")
        self.rope = given(32, "address of the rotary rows, in 64-byte units")
        self.rope_row = given(32, "64-byte units per rotary row")
        self.vocabulary = given(32, "number of token ids")
        self.half_head = given(8, "half of head_dim: pairs of a rotary row")
        self.words = gives(stream.Signature(WordWrite(machine)), "words of the rows, to the buffer")
        self.rotary = gives(RotaryWrite(machine), "write port of the rotary memory", "rope_{}")
        self.finish = gives(1, "level: everything is written, the aligner may close")
        self.aligned = given(1, "the aligner is done")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        instruction = self.task.instruction
        word = instruction.word
        beat_shift = (machine.beat_bytes - 1).bit_length()
        slot, base = Signal(bits_for_index(machine.tokens)), Signal(ELEMENT_BITS)
        position, token = Signal(POSITION_BITS), Signal(32)
        token_address, rope_address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        rope_position = registered(m, position, "rope_position")
        m.submodules.rows = rows = RowReader(machine)
        m.d.comb += [
            position.eq(instruction.position + slot),
            rows.row.eq(field(word, EMBED, "row")),
            rows.elements.eq(field(word, EMBED, "elements")),
        ]
        m.d.sync += [
            token_address.eq((self.tokens << ADDRESS_SHIFT) + (position << 2)),
            rope_address.eq((self.rope + rope_position * self.rope_row[:12])[:32] << ADDRESS_SHIFT),
            rows.address.eq(instruction.address + token * field(word, EMBED, "row")),
        ]
        # Port 0 gives token ids and rotary rows too, never at once with rows.
        ask, ask_address, ask_count = Signal(), Signal(ADDRESS_BITS), Signal.like(self.runs[0].payload.count)
        take, starved = Signal(), Signal()
        for p in range(1, machine.ports):
            connect(m, flipped(self.runs[p]), rows.runs[p])
            connect(m, flipped(self.beats[p]), rows.beats[p])
        runs, beats = self.runs[0], self.beats[0]
        m.d.comb += [
            runs.valid.eq(rows.runs[0].valid | ask),
            runs.payload.eq(rows.runs[0].payload),
            rows.runs[0].ready.eq(runs.ready),
            rows.beats[0].valid.eq(beats.valid),
            rows.beats[0].payload.eq(beats.payload),
            beats.ready.eq(rows.beats[0].ready | take),
        ]
        with m.If(ask):
            m.d.comb += [runs.payload.beat.eq(ask_address >> beat_shift), runs.payload.count.eq(ask_count)]
        # Rows to the buffer, rotary rows to the array
        rope_index, piece = Signal(9), Signal(range(max(2, machine.port_bits // 32)))
        last, closing = Signal(), Signal()  # rope_index is the last one; it is, or the piece is its beat's last
        last_piece, following = machine.port_bits // 32 - 1, Signal.like(piece)
        m.d.comb += following.eq(Mux(piece == last_piece, 0, piece + 1))
        address = (base + rows.words.payload.element)[:ELEMENT_BITS]
        m.d.comb += [
            self.words.valid.eq(rows.words.valid),
            self.words.payload.address.eq(address),
            self.words.payload.data.eq(rows.words.payload.data),
            self.words.payload.enable.eq(rows.words.payload.enable),
            self.words.payload.slot.eq(slot),
            rows.words.ready.eq(self.words.ready),
            self.rotary.slot.eq(slot),
            self.rotary.word.eq(rope_index),
            self.rotary.data.eq(beats.payload.word_select(piece, 32)),
        ]
        wrote = self.words.valid & self.words.ready
        m.d.comb += [
            self.task.working.eq(wrote | self.rotary.enable),
            self.task.waiting.eq((ask & ~runs.ready) | starved | rows.waiting),
        ]
        m.submodules.writes = writes = Signature(lanes)
        m.d.comb += self.task.digest.eq(writes.total)
        for k in range(lanes):
            m.d.comb += [
                writes.valid[k].eq(wrote & self.words.payload.enable[k]),
                writes.where[k].eq(lane(address, k, lanes)),
                writes.value[k].eq(self.words.payload.data.word_select(k, 32)),
            ]
        with m.If(self.rotary.enable):
            m.d.comb += [
                writes.valid[0].eq(1),
                writes.where[0].eq(index(1, slot, rope_index)),
                writes.value[0].eq(self.rotary.data),
            ]

        last_index = registered(m, ((self.half_head << 1) - 1)[: len(rope_index)], "last_index")
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.task.active):
                    m.d.comb += writes.clear.eq(1)
                    m.d.sync += [slot.eq(0), base.eq(field(word, EMBED, "dst") * BUFFER_UNIT)]
                    m.next = "SLOT"
            with m.State("SLOT"):
                # token_address and rope_address settle
                m.d.sync += [
                    rope_index.eq(0),
                    piece.eq(0),
                    last.eq(last_index == 0),
                    closing.eq((last_index == 0) | (last_piece == 0)),
                ]
                m.next = "NEXT"
                with m.If(instruction.mask.bit_select(slot, 1)):
                    m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.comb += [ask.eq(1), ask_address.eq(token_address), ask_count.eq(1)]
                with m.If(runs.ready):
                    m.next = "TOKEN DATA"
            with m.State("TOKEN DATA"):
                m.d.comb += [take.eq(1), starved.eq(~beats.valid)]
                with m.If(beats.valid):
                    m.d.sync += token.eq(beats.payload.word_select(token_address[2:beat_shift], 32))
                    m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(token >= self.vocabulary):
                    m.d.comb += self.bad_token.eq(1)
                    m.next = "STUCK"
                with m.Else():
                    m.d.comb += rows.start.eq(1)
                    m.next = "ROW"
            with m.State("STUCK"):
                pass
            with m.State("ROW"):
                with m.If(rows.done):
                    m.next = "ROPE"
            with m.State("ROPE"):
                pairs = machine.port_bits // 64
                count = (self.half_head + (pairs - 1)) >> (pairs.bit_length() - 1)
                m.d.comb += [ask.eq(1), ask_address.eq(rope_address), ask_count.eq(count)]
                with m.If(runs.ready):
                    m.next = "ROPE DATA"
            with m.State("ROPE DATA"):
                m.d.comb += [self.rotary.enable.eq(beats.valid), take.eq(closing), starved.eq(~beats.valid)]
                with m.If(beats.valid):
                    m.d.sync += [
                        piece.eq(following),
                        rope_index.eq(rope_index + 1),
                        last.eq(rope_index + 1 == last_index),
                        closing.eq((rope_index + 1 == last_index) | (following == last_piece)),
                    ]
                    with m.If(last):
                        m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [slot.eq(slot + 1), base.eq(base + field(word, EMBED, "stride") * BUFFER_UNIT)]
                m.next = "WAIT"
                with m.If(slot == machine.tokens - 1):
                    m.next = "ALIGN"
            with m.State("WAIT"):
                m.next = "SLOT"
            with m.State("ALIGN"):
                m.d.comb += [self.finish.eq(self.task.active), self.task.done.eq(self.aligned)]
                with m.If(self.aligned):
                    m.next = "IDLE"
        return m
