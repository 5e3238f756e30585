"""The beats of a group whose channels are active, run by run."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hw.arithmetic.pipeline import bits_for_index, count_shape
from hw.component import Bundle, Component, given, gives
from hw.pe.stationary.operands import word_lanes
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_GROUP


class ActiveWords(Bundle):
    """A read of the words of active channels, seen by who reads."""

    def __init__(self, machine: Machine) -> None:
        self.address = gives(bits_for_index(machine.activation // word_lanes(machine)), "word of channels")
        self.word = given(word_lanes(machine), "whether each is active, in the same cycle")
        super().__init__()


class ActiveRuns(Component):
    """Runs of neighbouring beats with an active channel, ascending; a run ends where a word of channels does.

    Latency: 3 cycles from ``start`` to the first run. Throughput: a run, or a word without one, per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lanes = word_lanes(machine)
        self.start = given(1, "begin")
        self.first = given(bits_for_index(machine.activation // lanes), "first word")
        self.words = given(count_shape(LARGEST_GROUP // lanes), "how many, at least 1")
        self.channels = given(range(machine.channel_slots.bit_length()), "of a beat, logarithm")
        self.read = gives(ActiveWords(machine), "of the words", "{}")
        self.valid = gives(1, "there is a run")
        self.ended = gives(1, "there are no more")
        self.beat = gives(count_shape(LARGEST_GROUP), "its first beat, of those from the first word on")
        self.length = gives(count_shape(lanes), "its beats")
        self.next = given(1, "it is taken")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = word_lanes(self.machine)
        left, address = Signal.like(self.words), Signal.like(self.first)
        word, base = Signal(lanes), Signal.like(self.beat)
        bits, load, found = Signal(lanes), Signal(), Signal()
        m.d.comb += [
            self.read.address.eq(address),
            found.eq((word != 0) & (~self.valid | self.next)),
            load.eq((left != 0) & ((word == 0) | (found & (bits == 0)))),
        ]
        # Beats of the word that is read next
        of_beats = Signal(lanes)
        with m.Switch(self.channels):
            for size in range(self.machine.channel_slots.bit_length()):
                with m.Case(size):
                    m.d.comb += of_beats.eq(Cat(part.any() for part in _parts(self.read.word, 1 << size)))
        lowest = word & (~word + 1)
        m.d.comb += [
            self.ended.eq(~self.valid & (word == 0) & (left == 0)),
            bits.eq(word & (word + lowest)[:lanes]),  # without its lowest run
        ]
        place, ones = Signal(range(lanes)), Signal.like(self.length)
        for k in reversed(range(lanes)):
            with m.If(word[k]):
                m.d.comb += place.eq(k)
        run = (word & ~bits)[:lanes]
        for k in range(lanes):
            with m.If(run[k]):
                m.d.comb += ones.eq(k + 1)
        per_word = Const(lanes) >> self.channels
        with m.If(found):
            m.d.sync += [word.eq(bits), self.beat.eq(base + place), self.length.eq(ones - place), self.valid.eq(1)]
        with m.Elif(self.next):
            m.d.sync += self.valid.eq(0)
        began = Signal()
        with m.If(load):
            m.d.sync += [
                word.eq(of_beats),
                left.eq(left - 1),
                address.eq(address + 1),
                base.eq(Mux(began, base + per_word, 0)),
                began.eq(1),
            ]
        with m.If(self.start):
            m.d.sync += [word.eq(0), self.valid.eq(0), left.eq(self.words), address.eq(self.first), began.eq(0)]
        return m


def _parts(value: Value, size: int) -> list[Value]:
    return [value[k : k + size] for k in range(0, len(value), size)]
