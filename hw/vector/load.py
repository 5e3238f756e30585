"""EMBED: token ids, embedding rows and rotary rows from memory."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream

from hw.arithmetic.fp32 import half_word_to_fp32
from hw.arithmetic.pipeline import bits_for_index
from hw.arithmetic.signature import Signature, index, lane
from hw.component import Bundle, Component, given, gives
from hw.control.issue import field
from hw.memory.buffer import ELEMENT_ADDRESS_BITS, WordWrite
from hw.memory.reader import Run
from hw.vector.unit import Task
from skipopu.isa.spec import BUFFER_UNIT, EMBED
from skipopu.machine.config import Machine


class RotaryWrite(Bundle):
    """A write of the rotary memory, seen from the unit that loads it."""

    def __init__(self, machine: Machine) -> None:
        self.slot = gives(bits_for_index(machine.tokens), "slot of the row")
        self.word = gives(8, "index of the number in its row: cosine and sine in turn")
        self.data = gives(32, "the number, FP32")
        self.enable = gives(1, "write now")
        super().__init__()


class EmbedUnit(Component):
    """Per slot: the token id (port 0), the row's parts from every port in turn, the rotary row (port 0).

    Latency: 2 cycles from ``active`` to the first slot's run, 2 from a token id's beat to its row's first run, none from a row's beat
    to its first word. Throughput: a word of the row or a rotary number per cycle; one memory access after the other.
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
        word = self.task.instruction.word
        elements, row = field(word, EMBED, "elements"), field(word, EMBED, "row")
        beat_shift = (machine.beat_bytes - 1).bit_length()
        to_beats = 6 - beat_shift  # 64-byte units to beats
        m.submodules.writes = writes = Signature(lanes)
        m.d.comb += self.task.digest.eq(writes.total)

        slot, port = Signal(bits_for_index(machine.tokens)), Signal(range(max(2, machine.ports)))
        position = Signal(24)
        base = Signal(ELEMENT_ADDRESS_BITS)
        token = Signal(32)
        element = Signal(20)
        part, rope_index = Signal(range(max(2, machine.kv_lanes // lanes))), Signal(9)
        piece = Signal(range(max(2, machine.port_bits // 32)))
        beats_left = Signal(20)
        token_address, rope_address, row_address = Signal(40), Signal(32), Signal(40)
        m.d.comb += position.eq(self.task.instruction.position + slot)
        m.d.sync += [
            token_address.eq((self.tokens << 6) + (position << 2)),
            rope_address.eq(self.rope + position * self.rope_row[:12]),
            row_address.eq(self.task.instruction.address + token * row),
        ]
        # Runs go to every port of the row in turn, beats come back in the same order.
        beat, valid, take, starved = Signal(machine.port_bits), Signal(), Signal(), Signal()
        ask, ask_beat, ask_count, accepted = Signal(), Signal(Run(machine)["beat"].shape), Signal(24), Signal()
        asked_port, asked = Signal.like(port), Signal(20)  # elements of the row that were asked for
        for p in range(machine.ports):
            runs, beats = self.runs[p], self.beats[p]
            m.d.comb += [
                runs.valid.eq(ask & (asked_port == p)),
                runs.payload.beat.eq(ask_beat),
                runs.payload.count.eq(ask_count),
                beats.ready.eq(take & (port == p)),
            ]
            with m.If(asked_port == p):
                m.d.comb += accepted.eq(runs.ready & ask)
            with m.If(port == p):
                m.d.comb += [beat.eq(beats.payload), valid.eq(beats.valid)]
        halves = Signal(16 * lanes)
        m.d.comb += halves.eq(beat.word_select(part, 16 * lanes))
        numbers = [half_word_to_fp32(m, halves[16 * k : 16 * k + 16], f"half_{k}") for k in range(lanes)]
        inside = Signal(lanes)
        m.d.comb += inside.eq(Cat(element + k < elements for k in range(lanes)))
        m.d.comb += [
            self.words.payload.address.eq(base + element),
            self.words.payload.data.eq(Cat(numbers)),
            self.words.payload.enable.eq(inside),
            self.words.payload.slot.eq(slot),
            self.rotary.slot.eq(slot),
            self.rotary.word.eq(rope_index),
            self.rotary.data.eq(beat.word_select(piece, 32)),
        ]
        wrote_words = self.words.valid & self.words.ready
        for k in range(lanes):
            m.d.comb += [
                writes.valid[k].eq(wrote_words & inside[k]),
                writes.where[k].eq(lane((base + element)[:ELEMENT_ADDRESS_BITS], k, lanes)),
                writes.value[k].eq(numbers[k]),
            ]
        m.d.comb += [
            self.task.working.eq(wrote_words | self.rotary.enable),
            self.task.waiting.eq((ask & ~accepted) | (take & ~valid) | starved),
        ]
        with m.If(self.rotary.enable):
            m.d.comb += [
                writes.valid[0].eq(1),
                writes.where[0].eq(index(1, slot, rope_index)),
                writes.value[0].eq(self.rotary.data),
            ]
        last_part = (part == machine.kv_lanes // lanes - 1) if machine.kv_lanes > lanes else Const(1, 1)

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.task.active):
                    m.d.comb += writes.clear.eq(1)
                    m.d.sync += [slot.eq(0), port.eq(0), base.eq(field(word, EMBED, "dst") * BUFFER_UNIT)]
                    m.next = "SLOT"
            with m.State("SLOT"):
                # token_address and rope_address settle
                m.d.sync += [element.eq(0), rope_index.eq(0), port.eq(0), asked_port.eq(0), asked.eq(0)]
                m.next = "NEXT"
                with m.If(self.task.instruction.mask.bit_select(slot, 1)):
                    m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.comb += [ask.eq(1), ask_beat.eq(token_address >> beat_shift), ask_count.eq(1)]
                with m.If(accepted):
                    m.next = "TOKEN DATA"
            with m.State("TOKEN DATA"):
                m.d.comb += take.eq(1)
                with m.If(valid):
                    m.d.sync += token.eq(beat.word_select(token_address[2:beat_shift], 32))
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.next = "ROW"
                with m.If(token >= self.vocabulary):
                    m.d.comb += self.bad_token.eq(1)
                    m.next = "STUCK"
            with m.State("STUCK"):
                pass
            with m.State("ROW"):
                m.d.comb += [ask.eq(1), ask_beat.eq(row_address << to_beats), ask_count.eq(row << to_beats)]
                m.d.sync += [beats_left.eq(row << to_beats), part.eq(0)]
                with m.If(accepted):
                    m.d.sync += [asked_port.eq(asked_port + 1), asked.eq(asked + (row << 5))]
                    with m.If((asked_port == machine.ports - 1) | (asked + (row << 5) >= elements)):
                        m.d.sync += asked_port.eq(0)
                        m.next = "ROW DATA"
            with m.State("ROW DATA"):
                m.d.comb += [
                    starved.eq(~valid),
                    self.words.valid.eq(valid & (element < elements)),
                    take.eq(valid & last_part & (self.words.ready | (element >= elements))),
                ]
                with m.If(valid & (self.words.ready | (element >= elements))):
                    m.d.sync += [part.eq(Mux(last_part, 0, part + 1)), element.eq(element + lanes)]
                    with m.If(last_part):
                        m.d.sync += beats_left.eq(beats_left - 1)
                        with m.If(beats_left == 1):
                            m.d.sync += [port.eq(port + 1), beats_left.eq(row << to_beats)]
                            with m.If((port == machine.ports - 1) | (element + lanes >= elements)):
                                m.d.sync += port.eq(0)
                                m.next = "ROPE"
            with m.State("ROPE"):
                count = (self.half_head + (machine.port_bits // 64 - 1)) >> ((machine.port_bits // 64).bit_length() - 1)
                m.d.comb += [ask.eq(1), ask_beat.eq(rope_address << to_beats), ask_count.eq(count)]
                m.d.sync += piece.eq(0)
                with m.If(accepted):
                    m.next = "ROPE DATA"
            with m.State("ROPE DATA"):
                m.d.comb += starved.eq(~valid)
                last_piece = piece == machine.port_bits // 32 - 1
                last = rope_index == (self.half_head << 1) - 1
                m.d.comb += [self.rotary.enable.eq(valid), take.eq(valid & (last_piece | last))]
                with m.If(valid):
                    m.d.sync += [piece.eq(Mux(last_piece, 0, piece + 1)), rope_index.eq(rope_index + 1)]
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
