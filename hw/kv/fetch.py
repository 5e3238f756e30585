"""One port's entries on their way to attention: from memory, or from the history buffer that kept them."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import count_shape, registered
from hw.component import Bundle, Component, given, gives
from hw.kv.ahead import AheadEntries
from hw.kv.history import Half, HistoryBuffer
from hw.kv.order import CHOSEN, EntryOrder
from hw.kv.phases import Phase
from hw.kv.request import Entry, EntryRequests, Wanted
from hw.kv.shapes import Heads, Pool
from hw.memory.reader import Run
from hw.widths import TOKEN_BITS
from skipopu.machine import pipeline
from skipopu.machine.config import ENTRIES_AHEAD, Machine


class Loader(Bundle):
    """One port's loader, seen by who loads."""

    def __init__(self, machine: Machine) -> None:
        self.runs = gives(stream.Signature(Run(machine)), "runs of beats wanted")
        self.beats = given(stream.Signature(machine.port_bits), "their beats, in order")
        self.level = given(count_shape(machine.kv_fifo), "beats that it holds")
        if pipeline.told(machine) and not machine.stationary:
            self.beyond = given(1, "a beat is there in two cycles, even if two more are taken until then")
        super().__init__()


class KvFetch(Component):
    """Requests what the history buffer does not hold, keeps it there, and hands entries out in order of arrival.

    A slot of the history buffer belongs to one token of the context; tokens without one come from memory every time. Places
    are written once, so a half whose tag names the wanted place is right whatever happened since. What was asked for ahead and did
    not come yet is waited for when it is wanted.

    Latency: 2 cycles from a wanted entry to its run, none from a loader's beat to ``beat``. Throughput: an entry that is held every
    other cycle, one that is asked for every third, a beat per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        entry = Entry(machine)
        self.soon = given(Phase(), "what attention is at, from a cycle before until its end", "to_{}")
        self.begin = given(1, "an instruction begins, one cycle")
        self.restart = given(1, "forget every entry, one cycle")
        self.wanted = given(stream.Signature(Wanted(machine)), "entries to fetch")
        self.filling = given(1, "what is wanted ahead may still be asked for, level")
        self.loader = gives(Loader(machine), "loader of this port", "{}")
        self.heads = given(Heads(machine), "the model's heads")
        self.pool = given(Pool(machine), "where entries lie")
        self.ready = gives(1, "a beat of the present entry is there")
        self.beat = gives(machine.port_bits, "that beat")
        self.entry = gives(entry, "the present entry")
        if not machine.stationary:
            self.behind = gives(1, "behind it there is another, of this entry or one that follows")
            if pipeline.told(machine):
                self.further = gives(1, "and another behind that one")
        self.pop = given(1, "the beat is used up")
        self.end = given(1, "so is the entry")
        self.softmax_score = gives(entry["score"].shape, "first score word of the entry whose probabilities are next")
        self.softmax_ready = gives(1, "it is settled which that is")
        self.softmax_end = given(1, "its probabilities are made")
        if machine.stationary:
            if machine.history:
                self.kept = gives(machine.port_bits, "the beat, where the present entry is a hit")
                self.present_hit = gives(1, "it is one")
            self.came = gives(1, "an entry is wanted, one cycle")
            self.came_values = gives(1, "its values are")
        else:
            self.pending = gives(1, "an entry of the phase waits or is worked on")
        self.left = gives(1, "a scored entry had no probabilities a cycle before")
        self.hit = gives(1, "a beat came from the history buffer")
        self.fetched_ahead = gives(1, "a beat came that was asked for ahead")
        self.quiet = gives(1, "nothing is being fetched ahead")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, layout, heads = self.machine, Entry(self.machine), self.heads
        m.submodules.requests = requests = EntryRequests(machine)
        m.submodules.ahead = ahead = AheadEntries(machine)
        m.submodules.misses = misses = SyncFIFOBuffered(width=layout.size, depth=ENTRIES_AHEAD)
        m.submodules.hits = hits = SyncFIFOBuffered(width=layout.size, depth=ENTRIES_AHEAD)
        m.submodules.order = order = EntryOrder(machine)
        # In registers of this port: a cycle longer than attention is at it, when no entry is left.
        keys, values = registered(m, self.soon.keys, "in_keys"), registered(m, self.soon.values, "in_values")
        wanted, beats, hit, miss = self.wanted.payload.entry, self.loader.beats, layout(hits.r_data), layout(misses.r_data)
        connect(m, flipped(self.heads), requests.heads, order.heads)
        connect(m, flipped(self.pool), requests.pool)
        connect(m, flipped(self.wanted), requests.wanted)
        connect(m, flipped(self.loader.runs), requests.runs)

        # What is only to be kept goes past the hits that are worked on. The misses that it might meet were wanted after it.
        alone, alone_number, alone_end = Signal(), Signal.like(heads.key_beats), Signal()
        last_key, last_value = (registered(m, count - 1, "last_beat") for count in (heads.key_beats, heads.kv_words))
        m.d.comb += [
            alone.eq(misses.r_rdy & miss.ahead & beats.valid),
            alone_end.eq(alone & (alone_number == Mux(miss.half.values, last_value, last_key))),
        ]
        with m.If(alone):
            m.d.sync += alone_number.eq(Mux(alone_end, 0, alone_number + 1))
        m.d.comb += [
            requests.filling.eq(self.filling),
            misses.w_data.eq(requests.misses.payload),
            misses.w_en.eq(requests.misses.valid),
            requests.misses.ready.eq(misses.w_rdy),
            hits.w_data.eq(requests.hits.payload),
            hits.w_en.eq(requests.hits.valid),
            requests.hits.ready.eq(hits.w_rdy),
            ahead.taken.eq(requests.taken),
            ahead.entry.eq(wanted),
            ahead.dropped.eq(requests.dropped),
            ahead.came.eq(alone_end),
            ahead.came_half.eq(miss.half),
            ahead.asked.eq(hit.half),
            self.quiet.eq(ahead.none & ~requests.clearing),
            order.phase.keys.eq(keys),
            order.phase.values.eq(values),
            order.level.eq(self.loader.level),
            order.hits.valid.eq(hits.r_rdy & ahead.there),
            order.hits.payload.eq(hit),
            hits.r_en.eq(order.hits.valid & order.hits.ready),
            order.misses.valid.eq(misses.r_rdy & ~miss.ahead),
            order.misses.payload.eq(miss),
            misses.r_en.eq(order.misses.ready | alone_end),
            order.pop.eq(self.pop),
            order.end.eq(self.end),
            order.softmax_end.eq(self.softmax_end),
            self.softmax_score.eq(order.softmax_score),
            self.softmax_ready.eq(order.softmax_ready),
            self.entry.eq(order.turn.entry),
            beats.ready.eq((self.pop & ~order.turn.hit) | alone),
            self.hit.eq(self.pop & order.turn.hit),
            self.fetched_ahead.eq(alone),
            self.beat.eq(beats.payload),
            self.ready.eq(order.there & ~order.turn.hit & beats.valid),
        ]
        if not machine.stationary:
            m.d.comb += self.behind.eq(self.loader.level > 1)
            if pipeline.told(machine):
                m.d.comb += self.further.eq(self.loader.beyond)

        # Entries of each phase that are wanted and not finished; scored and without probabilities
        came = requests.taken & ~wanted.ahead
        if machine.stationary:
            m.d.comb += [self.came.eq(came), self.came_values.eq(wanted.half.values)]
        else:
            waiting = [Signal(range(2 * ENTRIES_AHEAD + CHOSEN + 2), name=f"waiting_{name}") for name in ("keys", "values")]
            some, following = ([Signal(name=f"{when}_{name}") for name in ("keys", "values")] for when in ("some", "then"))
            for which, phase in enumerate((keys, values)):
                more, less, count = came & (wanted.half.values == which), self.end & phase, waiting[which]
                with m.If(more & ~less):
                    m.d.sync += count.eq(count + 1)
                with m.Elif(less & ~more):
                    m.d.sync += count.eq(count - 1)
                m.d.comb += following[which].eq(more | (some[which] & ~(less & (count == 1))))
                m.d.sync += some[which].eq(following[which])
            m.d.sync += self.pending.eq(Mux(self.soon.values, following[1], following[0]))
        left = Signal(TOKEN_BITS)
        m.d.sync += left.eq(left + (self.end & keys) - self.softmax_end)
        with m.If(self.begin):
            m.d.sync += left.eq(0)
        m.d.sync += self.left.eq(left != 0)
        if machine.history:
            self._keep(m, requests, order, hits.r_en, alone, miss.half, alone_number)
        return m

    def _keep(
        self, m: Module, requests: EntryRequests, order: EntryOrder, take: Value, alone: Value, half: Value, number: Value
    ) -> None:
        """The history buffer: beats of misses go in, those of hits come out; ``alone``: beat ``number`` of ``half`` came ahead."""
        machine, of_miss = self.machine, Signal.like(self.heads.key_beats)
        with m.If(self.end):
            m.d.sync += of_miss.eq(0)
        with m.Elif(self.pop):
            m.d.sync += of_miss.eq(of_miss + 1)
        m.submodules.history = history = HistoryBuffer(machine)
        # Halves of hits are read in the order of their turns.
        m.submodules.reads = reads = SyncFIFOBuffered(width=Half(machine).size, depth=CHOSEN)
        connect(m, flipped(self.heads), history.heads)
        present, kept = order.turn, requests.entry.kept
        m.d.comb += [
            history.restart.eq(self.restart),
            requests.clearing.eq(self.restart | history.clearing),
            history.lookup.eq(self.wanted.payload.entry.half),
            history.place.eq(self.wanted.payload.place),
            history.lookup_enable.eq(requests.taken),
            requests.held.eq(history.hit & kept),
            history.keep.eq(requests.entry.half),
            history.keep_enable.eq(requests.runs.valid & requests.runs.ready & kept),
            history.written.eq(Mux(alone, half, present.entry.half)),
            history.written_number.eq(Mux(alone, number, of_miss)),
            history.written_data.eq(self.loader.beats.payload),
            history.written_enable.eq((self.pop & ~present.hit & present.entry.kept) | alone),
            history.beats.ready.eq(self.pop & present.hit),
            reads.w_data.eq(order.hits.payload.half),
            reads.w_en.eq(take),
            history.reads.payload.eq(reads.r_data),
            history.reads.valid.eq(reads.r_rdy),
            reads.r_en.eq(history.reads.ready),
        ]
        with m.If(present.hit):
            if not machine.stationary:
                m.d.comb += [self.beat.eq(history.beats.payload), self.behind.eq(history.level > 1)]
                if pipeline.told(machine):
                    m.d.comb += self.further.eq(history.further)
            m.d.comb += self.ready.eq(order.there & history.beats.valid)
        if machine.stationary:
            m.d.comb += [self.kept.eq(history.beats.payload), self.present_hit.eq(present.hit)]
