"""The program: read from memory into a memory of its own."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index, delay_valid, registered
from hw.component import Component, given, gives
from hw.control.issue import field
from hw.memory.reader import Run
from skipopu.isa.fields import WORD_BITS
from skipopu.isa.spec import ADDRESS_UNIT, EXTEND, INSTRUCTIONS, NO_INSTRUCTION, OPCODE_BITS, PC_BITS
from skipopu.machine.config import Machine


def has_unknown_bits(word: Value, machine: Machine) -> Value:
    """Whether bits of ``word`` are set that no field of its opcode's instruction has, or an operand of EXTEND that no unit takes."""
    ends = sorted({i.used_bits for i in INSTRUCTIONS if i.used_bits < WORD_BITS})
    parts = [word[first:last].any() for first, last in zip(ends, [*ends[1:], WORD_BITS], strict=True)]
    shorter = [Cat(word[:OPCODE_BITS] == i.opcode for i in INSTRUCTIONS if i.used_bits <= end).any() for end in ends]
    reserved = Cat(part & short for part, short in zip(parts, shorter, strict=True)).any()
    operands = (field(word, EXTEND, f.name) for f in EXTEND.fields[1:] if f.name != "mask" or not machine.masks)
    return reserved | ((word[:OPCODE_BITS] == EXTEND.opcode) & Cat(operands).any())


class ProgramMemory(Component):
    """Loads a program through port 0, then gives its words: those with bits that nothing takes with an opcode that none has either.

    Latency: 1 cycle from ``start`` to the run or to ``refused``, 2 from the last word's beat to ``done``, 1
    from ``pc`` to ``word``. Throughput: a word loaded per cycle, or per beats that make one.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.start = given(1, "load a program, for a cycle")
        self.address = given(32, "where it stands in port 0, 64-byte units")
        self.length = given(32, "its words")
        self.runs = gives(stream.Signature(Run(machine)), "where port 0's loader reads")
        self.beats = given(stream.Signature(machine.port_bits), "what it read")
        self.loading = gives(1, "that loader is in use")
        self.refused = gives(1, "there are no words, or too many, for a cycle; nothing is loaded")
        self.done = gives(1, "all words can be read from the next cycle on, for a cycle")
        self.pc = given(bits_for_index(machine.instructions), "word to read")
        self.word = gives(WORD_BITS, "the word read")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        m.submodules.memory = memory = Memory(shape=WORD_BITS, depth=machine.instructions, init=[])
        write, read = memory.write_port(), memory.read_port()
        beats_per_word = max(1, WORD_BITS // machine.port_bits)
        words_per_beat = max(1, machine.port_bits // WORD_BITS)
        beat_shift = (ADDRESS_UNIT // machine.beat_bytes).bit_length() - 1
        left, piece, joined = Signal(PC_BITS + 1), Signal(4), Signal(WORD_BITS)
        came, taken = Signal(WORD_BITS), Signal()
        stored = registered(m, came, "stored")
        unknown = registered(m, has_unknown_bits(stored, machine), "unknown")
        beats = (self.length * beats_per_word + (words_per_beat - 1)) >> (words_per_beat.bit_length() - 1)
        next_word = Signal(bits_for_index(machine.instructions))
        m.d.comb += [
            read.addr.eq(self.pc),
            self.word.eq(read.data),
            write.addr.eq(next_word),
            write.data.eq(registered(m, stored, "kept") | Mux(unknown, NO_INSTRUCTION, 0)),
            write.en.eq(delay_valid(m, taken, 2, "taken")),
            self.done.eq(delay_valid(m, taken & (left == 1), 2, "last")),
            self.runs.payload.beat.eq(self.address << beat_shift),
            self.runs.payload.count.eq(beats),
        ]
        with m.If(taken):
            m.d.sync += left.eq(left - 1)
        with m.If(write.en):
            m.d.sync += next_word.eq(next_word + 1)
        # Stable from before the start.
        unfit = registered(m, (self.length == 0) | (self.length > machine.instructions), "unfit")
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [next_word.eq(0), piece.eq(0), left.eq(self.length)]
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += [self.loading.eq(1), self.refused.eq(unfit), self.runs.valid.eq(~unfit)]
                with m.If(self.refused):
                    m.next = "IDLE"
                with m.Elif(self.runs.ready):
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += self.loading.eq(1)
                last = piece == max(words_per_beat, beats_per_word) - 1
                m.d.comb += self.beats.ready.eq(last | (left == 1) if beats_per_word == 1 else 1)
                with m.If(self.beats.valid):
                    if beats_per_word == 1:
                        chosen = piece[: max(1, words_per_beat.bit_length() - 1)]
                        m.d.comb += [
                            came.eq(self.beats.payload.word_select(chosen, WORD_BITS)),
                            taken.eq(1),
                        ]
                    else:
                        whole = Cat(joined[machine.port_bits :], self.beats.payload)
                        m.d.comb += [came.eq(whole), taken.eq(last)]
                        m.d.sync += joined.eq(whole)
                    m.d.sync += piece.eq(Mux(last, 0, piece + 1))
                with m.If(self.done):
                    m.next = "IDLE"
        return m
