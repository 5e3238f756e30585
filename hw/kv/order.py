"""The order in which one port's entries take their turn."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered

from hw.arithmetic.pipeline import count_shape, registered
from hw.component import Component, given, gives
from hw.kv.phases import Phase
from hw.kv.request import Entry
from hw.kv.shapes import Heads
from hw.memory.places import carried
from skipopu.machine.config import Machine

CHOSEN = 4  # entries whose turn is settled, the present one included


class Turn(data.StructLayout):
    """An entry whose turn is settled. hit: its beats come from the history buffer."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"entry": Entry(machine), "hit": 1})


class EntryOrder(Component):
    """Settles turns: the next is a hit when the first miss's beats would not come in time, else that miss.

    Of the entries settled the beats of hits are there at once, and memory brings at least 7 beats in 8 cycles. Values are settled up
    to three rounds ahead, so that their probabilities can be made.

    Latency: 2 cycles from an entry to ``there`` and ``softmax_ready``. Throughput: an entry per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        entry = Entry(machine)
        self.phase = given(Phase(), "what attention is at", "{}")
        self.heads = given(Heads(machine), "the model's heads")
        self.level = given(count_shape(machine.kv_fifo), "beats of misses that the loader holds")
        self.hits = given(stream.Signature(entry), "entries held")
        self.misses = given(stream.Signature(entry), "entries asked for")
        self.turn = gives(Turn(machine), "the present entry")
        self.there = gives(1, "there is one")
        self.pop = given(1, "a beat of it is used up")
        self.end = given(1, "so is the entry")
        self.softmax_score = gives(entry["score"].shape, "first score word of the entry whose probabilities are next")
        self.softmax_ready = gives(1, "it is settled which that is")
        self.softmax_end = given(1, "its probabilities are made")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        phase, hit, miss, turn = self.phase, self.hits.payload, self.misses.payload, Turn(self.machine)
        m.submodules.order = order = SyncFIFOBuffered(width=turn.size, depth=CHOSEN)
        m.submodules.softmax = softmax = SyncFIFOBuffered(width=len(self.softmax_score), depth=CHOSEN)
        in_phase = phase.keys | phase.values
        hit_there = self.hits.valid & in_phase & (hit.half.values == phase.values)
        miss_there = self.misses.valid & in_phase & (miss.half.values == phase.values)
        several = unsigned(len(self.heads.key_beats) + CHOSEN.bit_length())
        settled_beats, settled_hits, settled = Signal(several), Signal(several), Signal(range(CHOSEN + 1))
        in_time, early = Signal(), ~hit_there & Mux(phase.values, settled < 3, settled == 1)
        take_miss, take_hit, free = Signal(), Signal(), order.w_rdy & softmax.w_rdy
        m.d.comb += [
            in_time.eq(self.level + settled_hits > settled_beats[3:]),
            take_miss.eq(free & miss_there & (in_time | early)),
            take_hit.eq(free & hit_there & ~take_miss),
            self.misses.ready.eq(take_miss),
            self.hits.ready.eq(take_hit),
            order.w_en.eq(take_miss | take_hit),
            order.w_data.eq(Cat(Mux(take_hit, hit.as_value(), miss.as_value()), take_hit)),
            order.r_en.eq(self.end),
            self.turn.eq(order.r_data),
            self.there.eq(order.r_rdy),
            softmax.w_en.eq(order.w_en & phase.values),
            softmax.w_data.eq(Mux(take_hit, hit.score, miss.score)),
            softmax.r_en.eq(self.softmax_end),
            self.softmax_score.eq(softmax.r_data),
            self.softmax_ready.eq(softmax.r_rdy),
        ]
        # Stable from before the first entry. The late ``pop`` and ``end`` only carry, or choose whether to count.
        keys, values = (registered(m, count - 1, "less_one") for count in (self.heads.key_beats, self.heads.kv_words))
        beats = Mux(phase.values, values, keys)
        m.d.sync += [
            settled_beats.eq(carried(settled_beats, Mux(order.w_en, beats, -1), ~self.pop)),
            settled_hits.eq(carried(settled_hits, Mux(take_hit, beats, -1), ~(self.pop & self.turn.hit))),
        ]
        with m.If(order.w_en & ~self.end):
            m.d.sync += settled.eq(settled + 1)
        with m.Elif(self.end & ~order.w_en):
            m.d.sync += settled.eq(settled - 1)
        return m
