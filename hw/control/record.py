"""Writes what control itself writes to port 0: generated tokens and, in check mode, the trace ring."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFOBuffered

from hw.component import Bundle, Component, given, gives, level
from hw.control.issue import UNITS, Record, field, pack
from hw.memory.axi import ADDRESS_BITS
from hw.memory.reader import Run
from hw.memory.writer import WriteBeat
from skipopu.isa.spec import ADDRESS_SHIFT
from skipopu.machine.config import Machine
from skipopu.records import RING_RECORD

FIFO_DEPTH = 8


class TokenWrite(Bundle):
    """A generated token on its way to memory."""

    def __init__(self) -> None:
        self.address = gives(ADDRESS_BITS, "where it goes, bytes")
        self.start = gives(1, "write it, for a cycle")
        self.done = given(1, "it is written, for a cycle")
        super().__init__()


class RecordWriter(Component):
    """One write at a time. A record's place in the ring is its sequence number modulo the ring's size.

    Latency: 1 cycle from a token's start to its run, 3 from a retired instruction to its record's; 1 more to the first beat.
    Throughput: a write in 3 cycles and one per beat, more where memory lets it wait; a token's start is seen between writes only.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.retired = [given(stream.Signature(Record()), f"what unit {u} has retired") for u in range(UNITS)]
        self.check = given(1, "records are written; else they are dropped")
        self.ring = given(32, "address of the trace ring, 64-byte units")
        self.ring_records = given(32, "records that it holds, a power of two")
        self.cycle = given(32, "time that a record says")
        self.token = given(32, "a generated token")
        self.write_token = given(TokenWrite(), "it is written while no record is", "token_{}")
        self.runs = gives(stream.Signature(Run(machine)), "where port 0 writes")
        self.beats = gives(stream.Signature(WriteBeat(machine)), "what it writes")
        self.written = given(1, "the run is in memory, for a cycle")
        self.idle = gives(1, "nothing is inside")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        width = 8 * RING_RECORD.size
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=width, depth=FIFO_DEPTH)
        taken = Signal()
        for u, retired in enumerate(self.retired):
            with m.If(retired.valid & ~Cat(earlier.valid for earlier in self.retired[:u]).any()):
                m.d.comb += [
                    fifo.w_data.eq(
                        pack(
                            RING_RECORD,
                            sequence=retired.payload.sequence + 1,
                            pc=retired.payload.pc,
                            signature=retired.payload.signature,
                            cycle=self.cycle,
                        )
                    ),
                    retired.ready.eq(fifo.w_rdy | ~self.check),
                    taken.eq(self.check),
                ]
        m.d.comb += fifo.w_en.eq(taken)
        beat_shift = (machine.beat_bytes - 1).bit_length()
        record_beats = max(1, RING_RECORD.size // machine.beat_bytes)
        address, value, left = Signal(ADDRESS_BITS), Signal(width), Signal(2)
        strobe, is_token = Signal(RING_RECORD.size), Signal()
        sequence = field(fifo.r_data, RING_RECORD, "sequence") - 1
        piece = max(1, machine.beat_bytes // RING_RECORD.size)
        chunk = min(machine.port_bits, width)
        place = address[4:beat_shift] if piece > 1 else Const(0, 1)
        m.d.comb += [
            self.runs.payload.beat.eq(address >> beat_shift),
            self.runs.payload.count.eq(Mux(is_token, 1, record_beats)),
            self.beats.payload.data.eq(Cat(value[:chunk] for _ in range(piece))),
            self.beats.payload.strobe.eq(Cat(strobe[: chunk // 8] & (place == k).replicate(chunk // 8) for k in range(piece))),
        ]
        token_low = self.write_token.address[2:4]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(level(fifo) == 0)
                with m.If(self.write_token.start):
                    # A token is 4 bytes of the 16 (or of the beat, where that is shorter).
                    shift = token_low if machine.beat_bytes >= 16 else token_low[:1]
                    m.d.sync += [
                        address.eq(self.write_token.address),
                        value.eq(Cat(self.token for _ in range(4))),
                        strobe.eq(Const(15, 16) << (shift << 2)),
                        is_token.eq(1),
                        left.eq(1),
                    ]
                    m.next = "RUN"
                with m.Elif(fifo.r_rdy):
                    offset = (sequence & (self.ring_records - 1))[:28]
                    m.d.sync += [
                        address.eq((self.ring << ADDRESS_SHIFT) + (offset << 4)),
                        value.eq(fifo.r_data),
                        strobe.eq(-1),
                        is_token.eq(0),
                        left.eq(record_beats),
                    ]
                    m.d.comb += fifo.r_en.eq(1)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.runs.valid.eq(1)
                with m.If(self.runs.ready):
                    m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += self.beats.valid.eq(1)
                with m.If(self.beats.ready):
                    m.d.sync += [value.eq(value >> chunk), left.eq(left - 1)]
                    with m.If(left == 1):
                        m.next = "WRITTEN"
            with m.State("WRITTEN"):
                with m.If(self.written):
                    m.d.comb += self.write_token.done.eq(is_token)
                    m.next = "IDLE"
        return m
