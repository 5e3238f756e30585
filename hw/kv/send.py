"""A formatted KV entry on its way to memory."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal

from hw.arithmetic.pipeline import bits_for_index, registered
from hw.component import Component, given, gives
from hw.kv.format import StagedRead, staging_depth
from hw.kv.shapes import Pool
from hw.memory.axi import ADDRESS_BITS
from hw.memory.outpost import Sent
from hw.memory.writer import Writes
from hw.widths import PLACE_BITS
from skipopu.isa.spec import ADDRESS_UNIT
from skipopu.machine import pipeline
from skipopu.machine.config import Machine


class EntrySender(Component):
    """Writes a staged entry to its place and waits until memory has it.

    Latency: 1 cycle from ``start`` to the run, 1 from the run to the first beat, 1 from ``written`` to ``done``; one more from and to
    several ports. Throughput: a beat per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        if pipeline.apart(machine):
            self.sent = gives(Sent(machine, machine.ports), "writes to one of the ports", "sent_{}")
        else:
            self.writes = gives(Writes(machine), "to the only port", "{}")
            self.written = given(1, "the write is done, one cycle")
        self.start = given(1, "write the entry, one cycle")
        self.port = given(
            bits_for_index(machine.ports),
            "its port, two cycles before start or earlier; stands until done, as the next three do",
        )
        self.place = given(PLACE_BITS, "its place there, as early")
        self.pool = given(Pool(machine), "where entries lie")
        self.count = given(range(staging_depth(machine) + 1), "its beats")
        self.staged = gives(StagedRead(machine), "reads of it")
        self.sending = gives(1, "a beat is taken")
        self.waiting = gives(1, "the write waits for memory")
        self.done = gives(1, "memory has the entry, one cycle")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The address is in 64-byte units.
        address, sent = Signal(ADDRESS_BITS), Signal(range(staging_depth(self.machine) + 2))
        run, beat, waiting = Signal(), Signal(), Signal()
        unit_beats = ADDRESS_UNIT // self.machine.beat_bytes
        # The place is chosen among those of all ports. Its multiplier may stand far from here.
        offset = registered(m, registered(m, self.place, "place_here") * self.pool.entry, "offset")
        m.d.sync += address.eq(self.pool.base + offset)
        several = pipeline.apart(self.machine)
        where = self.sent.run if several else self.writes.runs.payload
        m.d.comb += [where.beat.eq(address << (unit_beats.bit_length() - 1)), where.count.eq(self.count)]
        run_taken, taken = Signal(), Signal()
        if several:
            m.d.sync += [
                self.sent.here.eq(1 << self.port),
                self.sent.begin.eq(run),
                self.sent.valid.eq(beat & taken),
                self.sent.beat.eq(self.staged.data),
            ]
            m.d.comb += [run_taken.eq(1), taken.eq(registered(m, self.sent.room, "room"))]
            written = registered(m, self.sent.done, "written_here")
        else:
            m.d.comb += [
                self.writes.runs.valid.eq(run),
                self.writes.beats.valid.eq(beat),
                self.writes.beats.payload.data.eq(self.staged.data),
                self.writes.beats.payload.strobe.eq(-1),
                run_taken.eq(self.writes.runs.ready),
                taken.eq(self.writes.beats.ready),
            ]
            written = registered(m, self.written, "written_here")
        m.d.comb += [
            self.sending.eq(beat & taken),
            self.waiting.eq((run & ~run_taken) | (beat & ~taken) | (waiting & ~written)),
            self.done.eq(waiting & written),
            self.staged.address.eq(Mux(beat, Mux(taken, sent + 1, sent), 0)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += sent.eq(0)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += run.eq(1)
                with m.If(run_taken):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += beat.eq(1)
                with m.If(taken):
                    m.d.sync += sent.eq(sent + 1)
                    with m.If(sent == self.count - 1):
                        m.next = "WRITTEN"
            with m.State("WRITTEN"):
                m.d.comb += waiting.eq(1)
                with m.If(written):
                    m.next = "IDLE"
        return m
