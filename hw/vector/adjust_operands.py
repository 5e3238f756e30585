"""What ADJUST reads from port 0: its record, rotary rows, gains and biases."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import delay
from hw.component import Component, given, gives
from hw.pe.rotary import LARGEST_HALF_HEAD
from hw.widths import GROUP_BITS
from skipopu.adjust_record import ADJUST_RECORD
from skipopu.isa.spec import ADDRESS_UNIT, BUFFER_UNIT
from skipopu.machine import pipeline
from skipopu.machine.config import Machine

UNIT_BITS = 8 * ADDRESS_UNIT
PAIR_BITS = 64  # of a rotary row: cosine, sine


class AdjustOperands(Component):
    """Beats come as they were asked for: a rotary row's go to its memory, the others are joined to 64 bytes.

    Latency: 1 cycle from 64 bytes' last beat to ``full``, 2 to ``have``; 2 from a word's use, or from ``turn``, to what belongs to it.
    Throughput: a beat per cycle, a word per cycle while there are some.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lanes = pipeline.adjust_lanes(machine)
        self.beats = given(stream.Signature(machine.port_bits), "what port 0's loader read")
        self.recording = given(1, "the next 64 bytes are the record")
        self.full = gives(1, "64 bytes are there")
        self.record = gives(ADJUST_RECORD.used_bits, "the latest record")
        self.rotary = given(1, "the next beats are a rotary row, which was asked for in this cycle")
        self.head_dim = given(GROUP_BITS, "elements of a head")
        self.row_beats = gives(range(LARGEST_HALF_HEAD + 1), "beats of its rotary row")
        self.have = gives(1, "there is a word of gains and biases")
        self.used = given(1, "it is used for the last time")
        self.gain = gives(32 * lanes, "gains of the word that was there 2 cycles ago")
        self.bias = gives(32 * lanes, "its biases")
        self.turn = given(GROUP_BITS, "element of its head at which a word of the vector begins")
        self.cos = gives(16 * lanes, "cosines of that word's pairs, 2 cycles later")
        self.sin = gives(16 * lanes, "sines")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits, lanes = self.machine.port_bits, pipeline.adjust_lanes(self.machine)
        count, words = UNIT_BITS // bits, BUFFER_UNIT // lanes
        fill, filled = Signal(UNIT_BITS), Signal(range(count + 1))
        block, piece = Signal(UNIT_BITS), Signal(range(words))
        left, beat = Signal.like(self.row_beats), Signal.like(self.row_beats)
        rows, piece_ends = Signal(), Signal()  # beats of a row are to come; the piece is the last one
        ends = self.used & piece_ends
        moves = self.full & ~self.recording & (~self.have | ends)
        takes = moves | (self.full & self.recording)
        row_taken = rows & self.beats.valid
        accepted = self.beats.valid & self.beats.ready & ~rows
        # Where a block takes longer to be used than to come, the next one may begin to come a cycle late.
        soon = ends if count >= words else Const(0, 1)
        m.d.comb += [
            self.full.eq(filled == count),
            self.beats.ready.eq(rows | ~self.full | self.recording | ~self.have | soon),
            self.row_beats.eq(((self.head_dim >> 1) + (bits // PAIR_BITS - 1)) >> ((bits // PAIR_BITS).bit_length() - 1)),
        ]
        m.d.sync += filled.eq(Mux(takes, 0, filled) + accepted)
        with m.If(accepted):
            m.d.sync += fill.eq(Cat(fill, self.beats.payload)[-UNIT_BITS:])
        with m.If(self.full & self.recording):
            m.d.sync += [self.record.eq(fill), piece.eq(0), piece_ends.eq(words == 1)]
        following = Mux(piece_ends, 0, piece + 1)
        with m.If(self.used):
            m.d.sync += [piece.eq(following), piece_ends.eq(following == words - 1)]
        with m.If(moves):
            m.d.sync += [block.eq(fill), self.have.eq(1)]
        with m.Elif(ends):
            m.d.sync += self.have.eq(0)
        gains, biases = block[: UNIT_BITS // 2], block[UNIT_BITS // 2 :]
        m.d.comb += [
            self.gain.eq(delay(m, gains.word_select(piece, 32 * lanes), 2, "gain")),
            self.bias.eq(delay(m, biases.word_select(piece, 32 * lanes), 2, "bias")),
        ]
        # A rotary row: a beat a word of its memory
        m.submodules.rotary_row = row = Memory(shape=bits, depth=LARGEST_HALF_HEAD * PAIR_BITS // bits, init=[])
        write, read = row.write_port(), row.read_port()
        with m.If(self.rotary):
            m.d.sync += [left.eq(self.row_beats), beat.eq(0), rows.eq(self.row_beats != 0)]
        with m.Elif(row_taken):
            m.d.sync += [left.eq(left - 1), beat.eq(beat + 1), rows.eq(left != 1)]
        number = self.turn[lanes.bit_length() - 1 :]  # words of ``lanes`` elements: 32 bits of the row are an element's share
        within = (bits // (32 * lanes)).bit_length() - 1
        m.d.comb += [
            write.addr.eq(beat),
            write.data.eq(self.beats.payload),
            write.en.eq(row_taken),
            read.addr.eq(number >> within),
        ]
        chosen = delay(m, number[:within], 1, "chosen")
        pairs = delay(m, read.data.word_select(chosen, 32 * lanes), 1, "pairs")
        for i in range(lanes // 2):
            pair = pairs.word_select(i, PAIR_BITS)
            m.d.comb += [self.cos.word_select(i, 32).eq(pair[:32]), self.sin.word_select(i, 32).eq(pair[32:])]
        return m
