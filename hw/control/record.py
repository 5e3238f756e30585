"""Writes what control itself writes to port 0: generated tokens and, in check mode, the trace ring."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out

from hw.control.issue import UNITS, Record
from hw.memory.reader import Run
from hw.memory.writer import WriteBeat
from skipopu.layout import RING_RECORD
from skipopu.machine.config import Machine

FIFO_DEPTH = 8


class RecordWriter(Component):
    """One write at a time. A record's place in the ring is its sequence number modulo the ring's size.

    Members: check, ring, ring_records, cycle (in); retired_u (in streams, one per unit); token, token_address (in: byte
    address), token_start (in), token_done (out); runs, beats (out streams), written (in); idle (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        super().__init__(
            {
                **{f"retired_{u}": In(stream.Signature(Record())) for u in range(UNITS)},
                "check": In(1),
                "ring": In(32),
                "ring_records": In(32),
                "cycle": In(32),
                "token": In(32),
                "token_address": In(40),
                "token_start": In(1),
                "token_done": Out(1),
                "runs": Out(stream.Signature(Run(machine))),
                "beats": Out(stream.Signature(WriteBeat(machine))),
                "written": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        width = 8 * RING_RECORD.size
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=width, depth=FIFO_DEPTH)
        taken = Signal()
        for u in range(UNITS):
            retired = getattr(self, f"retired_{u}")
            with m.If(retired.valid & ~Cat(getattr(self, f"retired_{v}").valid for v in range(u)).any()):
                m.d.comb += [
                    fifo.w_data.eq(
                        Cat(
                            (retired.payload.sequence + 1)[:32],
                            retired.payload.pc,
                            Const(0, 20),
                            retired.payload.signature,
                            self.cycle,
                        )
                    ),
                    retired.ready.eq(fifo.w_rdy | ~self.check),
                    taken.eq(self.check),
                ]
        m.d.comb += fifo.w_en.eq(taken)
        beat_shift = (machine.beat_bytes - 1).bit_length()
        record_beats = max(1, RING_RECORD.size // machine.beat_bytes)
        address, value, left = Signal(40), Signal(width), Signal(2)
        strobe, is_token = Signal(RING_RECORD.size), Signal()
        sequence = fifo.r_data[:32] - 1
        piece = max(1, machine.beat_bytes // RING_RECORD.size)
        chunk = min(machine.port_bits, width)
        place = address[4:beat_shift] if piece > 1 else Const(0, 1)
        m.d.comb += [
            self.runs.payload.beat.eq(address >> beat_shift),
            self.runs.payload.count.eq(Mux(is_token, 1, record_beats)),
            self.beats.payload.data.eq(Cat(value[:chunk] for _ in range(piece))),
            self.beats.payload.strobe.eq(Cat(strobe[: chunk // 8] & (place == k).replicate(chunk // 8) for k in range(piece))),
        ]
        token_low = self.token_address[2:4]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq((fifo.level == 0) & ~taken & ~self.token_start)
                with m.If(self.token_start):
                    # A token is 4 bytes of the 16 (or of the beat, where that is shorter).
                    shift = token_low if machine.beat_bytes >= 16 else token_low[:1]
                    m.d.sync += [
                        address.eq(self.token_address),
                        value.eq(Cat(self.token for _ in range(4))),
                        strobe.eq(Const(15, 16) << (shift << 2)),
                        is_token.eq(1),
                        left.eq(1),
                    ]
                    m.next = "RUN"
                with m.Elif(fifo.r_rdy):
                    offset = (sequence & (self.ring_records - 1))[:28]
                    m.d.sync += [
                        address.eq((self.ring << 6) + (offset << 4)),
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
                    m.d.comb += self.token_done.eq(is_token)
                    m.next = "IDLE"
        return m
