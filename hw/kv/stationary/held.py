"""One port's entries in the buffer of a stationary array: their beats are kept there until they are used up."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index, delay_valid, registered, tree
from hw.component import Bundle, Component, given, gives
from hw.kv.order import CHOSEN
from hw.kv.phases import Phase
from hw.kv.request import Entry
from hw.kv.shapes import Heads
from hw.widths import TOKEN_BITS
from skipopu.machine.config import BEATS_HELD, ENTRIES_AHEAD, ENTRIES_AT_ONCE, ENTRIES_HELD, QUERY_LANES, TOGETHER, Machine

MORE = 4  # beats behind those that all ports are known to keep, of which a port says whether it keeps them


class Progress(Bundle):
    """How far entries are used up, the same in all ports, seen by who walks them. Beats are counted modulo twice the buffer."""

    def __init__(self) -> None:
        self.together = gives(TOGETHER, "logarithm of the most entries of a round; stable while a phase is on")
        self.begin = gives(
            1, "a round begins, one cycle: it takes that many entries of each port, or what there is if no more come"
        )
        self.last = gives(1, "no entry of the phase will come that did not")
        self.known = gives(range(2 * BEATS_HELD), "beats that all ports keep, or will not have")
        self.freed = gives(range(2 * BEATS_HELD), "beats used up")
        self.finished = gives(range(2 * ENTRIES_HELD), "entries used up, modulo its range")
        self.entry = gives(range(ENTRIES_HELD), "the present step's entry, with its address")
        super().__init__()


class Held(data.StructLayout):
    """What a port has to know of an entry whose beats are kept: whose it is, and its first score word."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"token": TOKEN_BITS, "score": bits_for_index(machine.score_entries // QUERY_LANES)})


class HeldEntries(Component):
    """Brings the beats of a phase's entries into the buffer, one entry behind the other, as there is room.

    All ports' buffers are filled alike, so that a step reads the same address in all of them. A port that no more entries come to, and that keeps
    all of its own, has nothing to wait for.

    Latency: none from a beat to the buffer, 2 cycles from there, and 1 from ``progress.known``, to ``more``; a cycle from the phase, and until what is
    used up is room. Throughput: a beat per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.phase = given(Phase(), "what attention is at", "{}")
        self.heads = given(Heads(machine), "the model's heads")
        self.progress = given(Progress(), "of the walk", "{}")
        self.came = given(1, "an entry is wanted, one cycle")
        self.came_values = given(1, "its values are")
        self.ready = given(1, "a beat of the present entry is there")
        self.present = given(Entry(machine), "the present entry")
        self.pop = gives(1, "the beat is taken")
        self.end = gives(1, "it is the entry's last one")
        self.address = gives(range(BEATS_HELD), "where it is kept")
        self.pending = gives(ENTRIES_AT_ONCE, "bit k: more than k entries of the phase waited for a round a cycle before")
        self.more = gives(MORE, "bit k: beyond those known more than k beats are kept, or no more will come")
        self.own = gives(Held(machine), "the present step's entry, a cycle behind its address")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        progress = self.progress
        # In registers of this port: a cycle longer than attention is at it, when no entry is left.
        keys, values = delay_valid(m, self.phase.keys, 1, "keys"), delay_valid(m, self.phase.values, 1, "values")
        # Entries of each phase that wait for a round, and those of which not all beats came
        waiting, coming = (
            [Signal(range(2 * ENTRIES_AHEAD + CHOSEN + ENTRIES_HELD + 2), name=f"{name}_{of}") for of in ("keys", "values")]
            for name in ("waiting", "coming")
        )
        own, own_begun = Mux(values, waiting[1], waiting[0]), Signal(range(ENTRIES_AT_ONCE + 1))
        m.d.sync += self.pending.eq(Cat(own > k for k in range(ENTRIES_AT_ONCE)))
        # Where a round begins with less than it may have, no more come.
        of_round = [self.pending[k] & (k < (1 << progress.together)) for k in range(ENTRIES_AT_ONCE)]
        m.d.comb += own_begun.eq(Mux(progress.begin, tree(of_round, lambda a, b: a + b), 0))
        for which, on in enumerate((keys, values)):
            came = self.came & (self.came_values == which)
            m.d.sync += [
                waiting[which].eq(waiting[which] + came - Mux(on, own_begun, 0)),
                coming[which].eq(coming[which] + came - (on & self.end)),
            ]
        none_coming = registered(m, progress.last & (Mux(values, coming[1], coming[0]) == 0), "none_coming")

        # Beats
        freed, finished = (
            registered(m, Mux(keys | values, count, 0), name)
            for count, name in ((progress.freed, "freed"), (progress.finished, "finished"))
        )
        last = registered(m, Mux(self.phase.values, self.heads.kv_words, self.heads.key_beats) - 1, "last_beat")
        written, filled = Signal.like(progress.freed), Signal.like(progress.finished)
        number, ahead = Signal.like(self.heads.key_beats), Signal.like(written)
        first, held = number == 0, Held(self.machine)
        room, place = Signal.like(written), Signal.like(filled)
        m.d.comb += [
            room.eq(written - freed),
            place.eq(filled - finished),
            self.pop.eq((keys | values) & self.ready & (room != BEATS_HELD) & (~first | (place != ENTRIES_HELD))),
            self.end.eq(self.pop & (number == last)),
            self.address.eq(written),
            ahead.eq(written - progress.known),
        ]
        # None are beyond the buffer.
        m.d.sync += self.more.eq(Cat((ahead > k) | none_coming for k in range(MORE)))
        with m.If(self.pop):
            m.d.sync += [written.eq(written + 1), number.eq(Mux(self.end, 0, number + 1)), filled.eq(filled + first)]
        with m.If(~(keys | values)):
            m.d.sync += [written.eq(0), filled.eq(0)]

        m.submodules.held = entries = Memory(shape=held.size, depth=ENTRIES_HELD, init=[])
        write, read = entries.write_port(), entries.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(filled),
            write.data.eq(Cat(self.present.token, self.present.score)),
            write.en.eq(self.pop & first),
            read.addr.eq(progress.entry),
            self.own.eq(registered(m, read.data, "own")),
        ]
        return m
