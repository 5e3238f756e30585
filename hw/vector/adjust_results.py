"""Results of ADJUST on their way to the buffer, which others may be writing."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered

from hw.arithmetic.pipeline import bits_for_index
from hw.arithmetic.signature import Signature, lane
from hw.component import Component, given, gives
from hw.memory.buffer import WordWrite, lane_of
from hw.widths import ELEMENT_BITS
from skipopu.machine import pipeline
from skipopu.machine.config import Machine


class AdjustResults(Component):
    """Keeps a place for every word that was announced, holds its results until the buffer takes them, and signs them.

    Latency: 2 cycles from results to ``words``. Throughput: a word per cycle.
    """

    PLACES = pipeline.ADJUST + 6  # a word a cycle: one's place is free when two more are announced

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lanes = pipeline.adjust_lanes(machine)
        self.announce = given(1, "results will come")
        self.room = gives(1, "two more words may be announced", init=1)
        self.empty = gives(1, "all that were announced are written")
        self.valid = given(1, "results come")
        self.results = given(32 * lanes, "FP32")
        self.enable = given(lanes, "which of them there are")
        self.address = given(ELEMENT_BITS, "element of the buffer that the first one goes to")
        self.slot = given(bits_for_index(machine.tokens), "their token's slot")
        self.words = gives(stream.Signature(WordWrite(machine)), "results, to the buffer")
        self.clear = given(1, "the signature starts again")
        self.digest = gives(32, "signature of what was written")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, copies = len(self.enable), self.machine.vector_lanes // len(self.enable)
        layout = data.StructLayout({name: getattr(self, name).shape() for name in ("results", "enable", "address", "slot")})
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=layout.size, depth=self.PLACES)
        tail, head = Signal(layout), layout(fifo.r_data)
        m.submodules.writes = writes = Signature(lanes)
        word = self.words.payload
        first = lane_of(self.machine, head.address)[lanes.bit_length() - 1 :]
        went = self.words.valid & self.words.ready
        announced, following = Signal(range(self.PLACES + 1)), Signal(range(self.PLACES + 1))
        m.d.comb += [
            *(getattr(tail, name).eq(getattr(self, name)) for name in layout.members),
            fifo.w_data.eq(tail),
            fifo.w_en.eq(self.valid),
            fifo.r_en.eq(self.words.ready),
            self.words.valid.eq(fifo.r_rdy),
            word.address.eq(head.address),
            word.slot.eq(head.slot),
            word.data.eq(head.results.replicate(copies)),
            *(word.enable.word_select(k, lanes).eq(Mux(first == k, head.enable, 0)) for k in range(copies)),
            writes.clear.eq(self.clear),
            self.digest.eq(writes.total),
            self.empty.eq(announced == 0),
        ]
        m.d.comb += following.eq(announced + self.announce - went)
        m.d.sync += [announced.eq(following), self.room.eq(following <= self.PLACES - 2)]
        for k in range(lanes):
            m.d.comb += [
                writes.valid[k].eq(went & head.enable[k]),
                writes.where[k].eq(lane(head.address, k, lanes)),
                writes.value[k].eq(head.results.word_select(k, 32)),
            ]
        return m
