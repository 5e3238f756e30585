"""The beats of a group whose channels are active, run by run."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hw.arithmetic.pipeline import bits_for_index, count_shape, registered
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

    Latency: 4 cycles from ``start`` to the first run. Throughput: a run, or a word without one, per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lanes = word_lanes(machine)
        self.start = given(1, "begin")
        self.first = given(bits_for_index(machine.activation // lanes), "first word")
        self.words = given(count_shape(LARGEST_GROUP // lanes), "how many, at least 1")
        self.channels = given(range(machine.channel_slots.bit_length()), "of a beat, logarithm, from the start on")
        self.read = gives(ActiveWords(machine), "of the words", "{}")
        self.valid = gives(1, "there is a run")
        self.ended = gives(1, "there are no more")
        self.final = gives(1, "there are none behind it")
        self.beat = gives(count_shape(LARGEST_GROUP), "its first beat, of those from the first word on")
        self.length = gives(count_shape(lanes), "its beats")
        self.single = gives(1, "it is of one")
        self.touches = gives(1, "it begins where the one before ended, the first one with the first beat")
        self.next = given(1, "it is taken")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = word_lanes(self.machine)
        left, address = Signal.like(self.words), Signal.like(self.first)
        # The word that is read next, and the present one: what is left of it and of its runs' begins, whether there are some, and others behind one.
        ahead, is_ahead = Signal(lanes), Signal()
        word, begins, some, others, base = Signal(lanes), Signal(lanes), Signal(), Signal(), Signal.like(self.beat)
        reached = Signal()  # the run before ended where its word did, and words without one do not lie between
        load, found = Signal(), Signal()
        m.d.comb += [
            self.read.address.eq(address),
            self.final.eq(~some & ~is_ahead & (left == 0)),
            self.ended.eq(~self.valid & self.final),
            found.eq(some & (~self.valid | self.next)),
            load.eq(is_ahead & (~some | (found & ~others))),
        ]
        # Beats of the word that is read
        of_beats: Value = Const(0, 1)
        for size in range(self.machine.channel_slots.bit_length()):
            own = registered(m, self.channels == size, f"of_{1 << size}")
            of_beats |= Cat(part.any() & own for part in _parts(self.read.word, 1 << size))
        with m.If(~is_ahead | load):
            m.d.sync += [ahead.eq(of_beats), is_ahead.eq(left != 0)]
            with m.If(left != 0):
                m.d.sync += [left.eq(left - 1), address.eq(address + 1)]
        # Each of these has one bit set: the lowest run's first, and the one behind its last.
        lowest = (word & (~word + 1))[:lanes]
        carried = (word + lowest)[: lanes + 1]
        bits = (word & carried)[:lanes]  # without its lowest run
        place, ones = Signal(range(lanes)), Signal.like(self.length)
        m.d.comb += [place.eq(_index(lowest)), ones.eq(_index((carried & ~Cat(word, Const(0, 1)))[: lanes + 1]))]
        per_word = Const(lanes) >> self.channels
        with m.If(found):
            m.d.sync += [
                self.beat.eq(base + place),
                self.length.eq(ones - place),
                self.single.eq((word & (lowest << 1)[:lanes]) == 0),
                self.touches.eq(reached & word[0]),
                self.valid.eq(1),
                reached.eq(~others & word.bit_select((per_word - 1)[: (lanes - 1).bit_length()], 1)),
                word.eq(bits),
                begins.eq(_without_lowest(begins)),
                others.eq(_without_lowest(_without_lowest(begins)) != 0),
                some.eq(others),
            ]
        with m.Elif(self.next):
            m.d.sync += self.valid.eq(0)
        began = Signal()
        with m.If(load):
            own = (ahead & ~(ahead << 1))[:lanes]
            m.d.sync += [
                word.eq(ahead),
                begins.eq(own),
                some.eq(ahead != 0),
                others.eq(_without_lowest(own) != 0),
                base.eq(Mux(began, base + per_word, 0)),
                began.eq(1),
            ]
            with m.If(began & ~found):
                m.d.sync += reached.eq(0)
        with m.If(self.start):
            m.d.sync += [left.eq(self.words), address.eq(self.first), reached.eq(1)]
            m.d.sync += [flag.eq(0) for flag in (is_ahead, some, others, self.valid, began)]
        return m


def _index(one_hot: Value) -> Value:
    """Which of its bits is set."""
    size = (len(one_hot) - 1).bit_length()
    return Cat(Cat(one_hot[k] for k in range(len(one_hot)) if k >> bit & 1).any() for bit in range(size))


def _without_lowest(value: Value) -> Value:
    """``value`` without its lowest bit that is set."""
    return value & (value - 1)[: len(value)]


def _parts(value: Value, size: int) -> list[Value]:
    return [value[k : k + size] for k in range(0, len(value), size)]
