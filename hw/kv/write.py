"""KVWRITE: new KV entries for the listed slots, the previous layer's for the others."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import bits_for_index, registered
from hw.arithmetic.signature import Signature, index, lane
from hw.component import Component, given, gives
from hw.control.issue import field
from hw.kv.format import EntryFormatter
from hw.kv.heads import HeadSizes
from hw.kv.map import MapEntry, MapRead
from hw.kv.map_memory import MapWrite
from hw.kv.places import EntryPlaces
from hw.kv.send import EntrySender
from hw.kv.shapes import HeadShapes, Pool
from hw.memory.buffer import BufferRead
from hw.memory.outpost import Sent
from hw.memory.writer import Writes
from hw.vector.unit import Task
from hw.widths import PLACE_BITS, POSITION_BITS, TOKEN_BITS
from skipopu.isa.spec import BUFFER_UNIT, KVWRITE
from skipopu.machine import pipeline
from skipopu.machine.config import Machine


class KvWriteUnit(Component):
    """Formats each listed slot's K and V and writes them to the next place of the token's port, one slot after another.

    A decoded token's entry waits while ``hold`` where the instruction says so.

    Latency: a cycle until the slots begin (more where chunks are left out, see :class:`hw.kv.places.EntryPlaces`), ``Signature.LATENCY``
    + 1 from the last one to ``done``. A listed slot takes 1 cycle, its formatting, 1, its write, and 1 for the map; another one 3.
    Throughput: an entry at a time.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        shapes = HeadShapes(machine)
        self.task = given(Task(machine), "KVWRITE to execute", "{}")
        self.pool_full = gives(1, "a port has no place left, level")
        self.missing = gives(1, "an unlisted slot at the first layer has no entry, level")
        self.restart = given(1, "a run begins, for a cycle; no instruction runs in the cycle behind it")
        self.first = given(POSITION_BITS, "with restart: tokens from there on have no entries any more")
        self.hold = given(1, "the array reads weights")
        self.kv_heads = given(shapes.kv_heads, "heads of K, as many of V")
        self.head_dim = given(shapes.head_dim, "elements of a head")
        self.pool = given(Pool(machine), "where entries lie", "kv_{}")
        self.kv_slots = given(PLACE_BITS, "places per port")
        self.context = given(TOKEN_BITS, "tokens of a layer's row of the map")
        self.read = gives(BufferRead(machine), "elements, FP32", "read_{}")
        self.map = gives(MapRead(machine), "reads of the KV map", "map_read_{}")
        self.map_write = gives(MapWrite(machine), "new entries of the KV map", "map_write_{}")
        self.entries = gives(32, "entries written so far")
        self.saturated = gives(1, "a number was clipped")
        if pipeline.apart(machine):
            self.sent = gives(Sent(machine, machine.ports), "writes to one of the ports", "sent_{}")
        else:
            self.writes = gives(Writes(machine), "to the only port", "{}")
            self.written = given(1, "the write is done, one cycle")
        super().__init__()
        self.sizes, self.places = HeadSizes(machine), EntryPlaces(machine)
        self.format, self.send = EntryFormatter(machine), EntrySender(machine)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, places, form, send, instruction = self.machine, self.places, self.format, self.send, self.task.instruction
        m.submodules.sizes, m.submodules.places, m.submodules.format, m.submodules.send = self.sizes, places, form, send
        connect(m, self.sizes.heads, form.heads)
        connect(m, flipped(self.pool), send.pool)
        connect(m, send.staged, form.staged)
        connect(m, flipped(self.read), form.read)
        if pipeline.apart(machine):
            connect(m, flipped(self.sent), send.sent)
        else:
            connect(m, flipped(self.writes), send.writes)
            m.d.comb += send.written.eq(self.written)
        slot, mapped = Signal(bits_for_index(machine.tokens)), Signal(MapEntry())
        row = instruction.map_row + slot + instruction.position
        restart = registered(m, self.restart, "restart")
        m.d.comb += [
            self.sizes.kv_heads.eq(self.kv_heads),
            self.sizes.head_dim.eq(self.head_dim),
            places.restart.eq(restart),
            places.first.eq(registered(m, self.first, "first")),
            places.entry.eq(self.map.data),
            places.position.eq(instruction.position),
            self.entries.eq(places.used),
            form.restart.eq(restart),
            send.port.eq(places.port),
            send.place.eq(places.place),
            send.count.eq(form.beats),
            self.task.working.eq(form.reading | send.sending),
            self.task.waiting.eq(send.waiting),
            self.saturated.eq(form.saturated),
            self.map.address.eq(Mux(places.going_back, places.map_token, row - self.context)),
            self.map_write.address.eq(row),
            self.map_write.data.eq(mapped),
        ]
        self._steps(m, slot, mapped)
        self._sign(m, slot, mapped)
        return m

    def _steps(self, m: Module, slot: Signal, mapped: data.View) -> None:
        places, form, send, instruction = self.places, self.format, self.send, self.task.instruction
        listed, late, settled = Signal(), Signal(), Signal(range(Signature.LATENCY + 1))
        entered = Signal()  # the slot has an entry of its own
        full = registered(m, places.place >= self.kv_slots, "full")
        from_position = field(instruction.word, KVWRITE, "late")
        beyond = (from_position != 0) & (instruction.position >= from_position)
        m.d.comb += [listed.eq(instruction.mask.bit_select(slot, 1)), late.eq(beyond & (instruction.count == 1))]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += places.find.eq(self.task.active)
                with m.If(places.found):
                    m.d.sync += [slot.eq(0), form.source.eq(field(instruction.word, KVWRITE, "src") * BUFFER_UNIT)]
                    m.next = "SLOT"
            with m.State("SLOT"):
                m.d.sync += settled.eq(0)
                with m.If(slot >= instruction.count):
                    m.next = "SETTLE"
                with m.Elif(~listed & instruction.first_layer):
                    m.d.comb += self.missing.eq(1)
                with m.Elif(~listed):
                    m.next = "COPY"
                with m.Else():
                    m.d.comb += form.start.eq(1)
                    m.next = "FORMAT"
            with m.State("COPY"):
                m.d.sync += [mapped.eq(self.map.data), entered.eq(0)]
                m.next = "MAP"
            with m.State("FORMAT"):
                m.d.comb += [self.pool_full.eq(full), send.start.eq(form.done & ~full & ~(self.hold & late))]
                with m.If(full):
                    m.next = "FORMAT"
                with m.Elif(send.start):
                    m.next = "SEND"
                with m.Elif(form.done):
                    m.next = "HOLD"
            with m.State("HOLD"):
                m.d.comb += send.start.eq(~(self.hold & late))
                with m.If(send.start):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.sync += [mapped.place.eq(places.place), entered.eq(1)]
                with m.If(send.done):
                    m.next = "MAP"
            with m.State("MAP"):
                m.d.comb += [self.map_write.enable.eq(1), places.following.eq(1), places.use.eq(entered)]
                stride = field(instruction.word, KVWRITE, "stride") * BUFFER_UNIT
                m.d.sync += [slot.eq(slot + 1), form.source.eq(form.source + stride), settled.eq(0)]
                m.next = "SLOT"
                with m.If(slot == self.machine.tokens - 1):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.sync += settled.eq(settled + 1)
                with m.If(settled == Signature.LATENCY):
                    m.d.comb += self.task.done.eq(1)
                    m.next = "IDLE"

    def _sign(self, m: Module, slot: Signal, mapped: data.View) -> None:
        """Signature: the FP16 patterns, each head's exponent, what the map holds."""
        form, lanes = self.format, self.machine.vector_lanes
        m.submodules.signature = signature = Signature(lanes + 1)
        m.d.comb += [signature.clear.eq(self.places.found), self.task.digest.eq(signature.total)]
        for k in range(lanes):
            m.d.comb += [
                signature.valid[k].eq(form.valid),
                signature.where[k].eq(index(0, slot, lane(form.element, k, lanes))),
                signature.value[k].eq(form.halves.word_select(k, 16)),
            ]
        with m.If(form.exponent_valid):
            m.d.comb += [
                signature.valid[lanes].eq(1),
                signature.where[lanes].eq(index(1, slot, form.exponent_number)),
                signature.value[lanes].eq(form.exponent),
            ]
        with m.If(self.map_write.enable):
            m.d.comb += [
                signature.valid[lanes].eq(1),
                signature.where[lanes].eq(index(2, slot, Const(0, 1))),
                signature.value[lanes].eq((mapped.place << 8) | self.places.port),
            ]
