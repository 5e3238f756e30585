"""One port's entries on their way to attention: from memory, or from the history buffer that kept them."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered

from hw.arithmetic.pipeline import bits_for_index, count_shape
from hw.component import Bundle, Component, given, gives
from hw.kv.history import Half, HistoryBuffer
from hw.kv.phases import Phase
from hw.kv.shapes import HeadShapes
from hw.memory.reader import Run
from skipopu.machine.config import ENTRIES_AHEAD, QUERY_LANES, Machine

CHOSEN = 4  # entries whose turn is settled, the present one included


class Entry(data.StructLayout):
    """Half an entry to visit.

    token: whose; score: first score word of the entry; half: its place in the history buffer, if ``kept``, and whether values
    are wanted or keys; ahead: it is only to be kept.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "token": 20,
                "score": bits_for_index(machine.score_entries // QUERY_LANES),
                "half": Half(machine),
                "kept": 1,
                "ahead": 1,
            }
        )


class Wanted(data.StructLayout):
    """An :class:`Entry` and its place in the port's pool."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"place": 20, "entry": Entry(machine)})


class Loader(Bundle):
    """One port's loader, seen by who loads."""

    def __init__(self, machine: Machine) -> None:
        self.runs = gives(stream.Signature(Run(machine)), "runs of beats wanted")
        self.beats = given(stream.Signature(machine.port_bits), "their beats, in order")
        self.level = given(count_shape(machine.kv_fifo), "beats that it holds")
        super().__init__()


class KvFetch(Component):
    """Requests what the history buffer does not hold, keeps it there, and hands entries out in order of arrival.

    A slot of the history buffer belongs to one token of the context; tokens without one come from memory every time. Places
    are written once, so a half whose tag names the wanted place is right whatever happened since. Of the wanted entries the
    next is a hit when the beats of the first miss would not come in time, else that miss. Values are chosen up to three rounds
    ahead, so that their probabilities can be made. What was asked for ahead and did not come yet is waited for when it is wanted.

    Latency: 1 cycle from a wanted entry to its run, none from a loader's beat to ``beat``. Throughput: a wanted entry every other
    cycle, a beat per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        entry, self.shapes = Entry(machine), HeadShapes(machine)
        self.phase = given(Phase(), "phase", "{}")
        self.begin = given(1, "an instruction begins, one cycle")
        self.restart = given(1, "forget every entry, one cycle")
        self.wanted = given(stream.Signature(Wanted(machine)), "entries to fetch")
        self.filling = given(1, "what is wanted ahead may still be asked for, level")
        self.loader = gives(Loader(machine), "loader of this port", "{}")
        self.header_beats = given(self.shapes.header_beats, "beats of an entry's header")
        self.kv_words = given(self.shapes.kv_words, "beats of an entry's K")
        self.kv_base = given(32, "address of the pool of entries, 64-byte units")
        self.kv_entry = given(self.shapes.kv_entry, "size of an entry, 64-byte units")
        self.ready = gives(1, "a beat of the present entry is there")
        self.beat = gives(machine.port_bits, "that beat")
        self.entry = gives(entry, "the present entry")
        self.pop = given(1, "the beat is used up")
        self.end = given(1, "so is the entry")
        self.softmax_score = gives(entry["score"].shape, "first score word of the entry whose probabilities are next")
        self.softmax_ready = gives(1, "it is settled which that is")
        self.softmax_end = given(1, "its probabilities are made")
        self.pending = gives(1, "an entry of the phase waits or is worked on")
        self.left = gives(1, "a scored entry has no probabilities yet")
        self.hit = gives(1, "a beat came from the history buffer")
        self.fetched_ahead = gives(1, "a beat came that was asked for ahead")
        self.quiet = gives(1, "nothing is being fetched ahead")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, layout = self.machine, Entry(self.machine)
        m.submodules.misses = misses = SyncFIFOBuffered(width=layout.size, depth=ENTRIES_AHEAD)
        m.submodules.hits = hits = SyncFIFOBuffered(width=layout.size, depth=ENTRIES_AHEAD)
        m.submodules.order = order = SyncFIFOBuffered(width=layout.size + 1, depth=CHOSEN)
        m.submodules.softmax = softmax = SyncFIFOBuffered(width=len(self.softmax_score), depth=CHOSEN)
        key_beats, hit, clearing = Signal(self.shapes.key_beats), Signal(), Signal()
        m.d.sync += key_beats.eq(self.header_beats + self.kv_words)
        taken, wanted = Signal(), self.wanted.payload.entry

        # Requests: wanted entries are looked up one at a time
        beat_shift = (machine.beat_bytes - 1).bit_length()
        held, block = Signal(), Signal(40)
        entry = layout(Signal(layout.size, name="held_entry"))
        ahead = Signal(range(ENTRIES_AHEAD + CHOSEN + 2))  # to be kept and not there yet
        given_up = entry.ahead & ~self.filling
        asking = held & ~hit & ~given_up & misses.w_rdy
        send = asking & self.loader.runs.ready
        dropped = held & entry.ahead & (hit | given_up)
        m.d.comb += [
            self.wanted.ready.eq(~held & ~clearing),
            taken.eq(self.wanted.valid & self.wanted.ready),
            self.quiet.eq((ahead == 0) & ~clearing),
            self.loader.runs.valid.eq(asking),
            self.loader.runs.payload.beat.eq((block << (6 - beat_shift)) + Mux(entry.half.values, key_beats, 0)),
            self.loader.runs.payload.count.eq(Mux(entry.half.values, self.kv_words, key_beats)),
            misses.w_data.eq(entry),
            misses.w_en.eq(send),
            hits.w_data.eq(entry),
            hits.w_en.eq(held & hit & ~entry.ahead),
        ]
        with m.If(taken):
            m.d.sync += [block.eq(self.kv_base + self.wanted.payload.place * self.kv_entry), entry.eq(wanted), held.eq(1)]
        with m.Elif(send | dropped | (hits.w_en & hits.w_rdy)):
            m.d.sync += held.eq(0)

        # The present entry
        is_hit, number = order.r_data[-1], Signal.like(key_beats)
        hit_head, miss_head = layout(hits.r_data), layout(misses.r_data)
        # What is only to be kept goes past the hits that are worked on. The misses that it might meet were wanted after it.
        alone, alone_number = Signal(), Signal.like(key_beats)
        alone_end = alone & (alone_number == Mux(miss_head.half.values, self.kv_words, key_beats) - 1)
        m.d.comb += alone.eq(misses.r_rdy & miss_head.ahead & self.loader.beats.valid)
        with m.If(alone):
            m.d.sync += alone_number.eq(Mux(alone_end, 0, alone_number + 1))
        m.d.comb += [
            self.entry.as_value().eq(order.r_data[: layout.size]),
            self.loader.beats.ready.eq((self.pop & ~is_hit) | alone),
            self.hit.eq(self.pop & is_hit),
            self.fetched_ahead.eq(alone),
            self.beat.eq(self.loader.beats.payload),
            self.ready.eq(order.r_rdy & ~is_hit & self.loader.beats.valid),
            order.r_en.eq(self.end),
        ]
        with m.If(self.end):
            m.d.sync += number.eq(0)
        with m.Elif(self.pop):
            m.d.sync += number.eq(number + 1)
        m.d.sync += ahead.eq(ahead + (taken & wanted.ahead) - dropped - alone_end)
        # A layer's slots are filled in rising order: those below this one are there, unless an earlier layer's still come.
        filled, latest, mixed = Signal.like(wanted.half.slot), Signal.like(wanted.half.slot), Signal()
        with m.If(taken & wanted.ahead):
            m.d.sync += [latest.eq(wanted.half.slot), mixed.eq((ahead != 0) & (mixed | (wanted.half.slot < latest)))]
        with m.If(taken & wanted.ahead & (ahead == 0)):
            m.d.sync += filled.eq(wanted.half.slot)
        with m.Elif(alone_end & miss_head.half.values):
            m.d.sync += filled.eq(miss_head.half.slot + 1)
        there = (ahead == 0) | (~mixed & (hit_head.half.slot < filled))

        # Whose turn is next: of the entries settled, all beats and those of hits; memory brings at least 7 beats in 8 cycles.
        in_phase = self.phase.keys | self.phase.values
        hit_there = hits.r_rdy & in_phase & (hit_head.half.values == self.phase.values) & there
        miss_there = misses.r_rdy & ~miss_head.ahead & in_phase & (miss_head.half.values == self.phase.values)
        several = unsigned(len(key_beats) + CHOSEN.bit_length())
        settled_beats, settled_hits, settled = Signal(several), Signal(several), Signal(range(CHOSEN + 1))
        in_time, early = Signal(), ~hit_there & Mux(self.phase.values, settled < 3, settled == 1)
        take_miss, take_hit, free = Signal(), Signal(), order.w_rdy & softmax.w_rdy
        m.d.comb += [
            in_time.eq(self.loader.level + settled_hits > settled_beats[3:]),
            take_miss.eq(free & miss_there & (in_time | early)),
            take_hit.eq(free & hit_there & ~take_miss),
            misses.r_en.eq(take_miss | alone_end),
            order.w_en.eq(take_miss | take_hit),
            order.w_data.eq(Mux(take_hit, Cat(hits.r_data, Const(1, 1)), Cat(misses.r_data, Const(0, 1)))),
            softmax.w_en.eq(order.w_en & self.phase.values),
            softmax.w_data.eq(Mux(take_hit, hit_head.score, miss_head.score)),
            softmax.r_en.eq(self.softmax_end),
            self.softmax_score.eq(softmax.r_data),
            self.softmax_ready.eq(softmax.r_rdy),
        ]
        chosen = take_hit | take_miss
        beats_chosen = Mux(self.phase.values, self.kv_words, key_beats)
        m.d.sync += [
            settled_beats.eq(settled_beats + Mux(chosen, beats_chosen, 0) - self.pop),
            settled_hits.eq(settled_hits + Mux(take_hit, beats_chosen, 0) - self.hit),
            settled.eq(settled + chosen - self.end),
        ]

        # Entries of each phase that are wanted and not finished; scored and without probabilities
        waiting = [Signal(range(2 * ENTRIES_AHEAD + CHOSEN + 2), name=f"waiting_{name}") for name in ("keys", "values")]
        for which, (phase, count) in enumerate(zip((self.phase.keys, self.phase.values), waiting, strict=True)):
            came = taken & ~wanted.ahead & (wanted.half.values == which)
            m.d.sync += count.eq(count + came - (self.end & phase))
        left = Signal(20)
        m.d.sync += left.eq(left + (self.end & self.phase.keys) - self.softmax_end)
        with m.If(self.begin):
            m.d.sync += left.eq(0)
        m.d.comb += [self.pending.eq(Mux(self.phase.values, waiting[1], waiting[0]) != 0), self.left.eq(left != 0)]
        if not machine.history:
            return m

        m.submodules.history = history = HistoryBuffer(machine)
        asked = hit_head.half
        m.d.comb += [
            history.restart.eq(self.restart),
            clearing.eq(history.clearing),
            history.lookup.eq(wanted.half),
            history.place.eq(self.wanted.payload.place),
            history.lookup_enable.eq(taken),
            hit.eq(history.hit & entry.kept),
            history.keep.eq(entry.half),
            history.keep_enable.eq(send & entry.kept),
            history.header_beats.eq(self.header_beats),
            history.kv_words.eq(self.kv_words),
            history.written.eq(Mux(alone, miss_head.half, self.entry.half)),
            history.written_number.eq(Mux(alone, alone_number, number)),
            history.written_data.eq(self.loader.beats.payload),
            history.written_enable.eq((self.pop & ~is_hit & self.entry.kept) | alone),
            history.beats.ready.eq(self.pop & is_hit),
        ]
        # Chosen hits are read in their order.
        m.submodules.reads = reads = SyncFIFOBuffered(width=Half(machine).size, depth=CHOSEN)
        m.d.comb += [
            hits.r_en.eq(take_hit),
            reads.w_data.eq(asked),
            reads.w_en.eq(take_hit),
            history.reads.payload.eq(reads.r_data),
            history.reads.valid.eq(reads.r_rdy),
            reads.r_en.eq(history.reads.ready),
        ]
        with m.If(is_hit):
            m.d.comb += [self.beat.eq(history.beats.payload), self.ready.eq(order.r_rdy & history.beats.valid)]
        return m
