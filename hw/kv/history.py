"""KV history buffer of one port: the K and V of the tokens whose entries lie there, as last fetched, with a tag each."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import connect, flipped

from hw.arithmetic.pipeline import bits_for_index, count_shape, registered
from hw.component import Component, given, gives
from hw.kv.shapes import Heads, HeadShapes
from hw.memory.places import BeatPlaces
from hw.widths import PLACE_BITS
from skipopu.machine.config import Machine

READ_AHEAD = 8  # beats read before they are used


class Half(data.StructLayout):
    """Keys or values of slot ``slot``, whose beats of K, then V, start at ``base``."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"slot": bits_for_index(machine.history_slots), "base": bits_for_index(machine.history), "values": 1})


class HistoryBuffer(Component):
    """Slots of one entry each: a tag for the keys, one for the values, the header's beats beside the others.

    Latency: 1 cycle from a lookup to ``hit``, 2 from a written beat to its being read, 5 from a half asked for to its first beat.
    Throughput: a lookup, a beat written and a beat read per cycle, with a cycle between halves read; forgetting takes a cycle per tag.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        half, self.shapes = Half(machine), HeadShapes(machine)
        self.restart = given(1, "forget everything, one cycle")
        self.clearing = gives(1, "that is under way")
        self.lookup = given(half, "half to look up")
        self.place = given(PLACE_BITS, "place of the entry wanted there")
        self.lookup_enable = given(1, "look it up")
        self.hit = gives(1, "the half of this very place is held; from the next cycle on until the next lookup")
        self.keep = given(half, "half whose tag to write")
        self.keep_enable = given(1, "the place looked up will be held in it")
        self.heads = given(Heads(machine), "the model's heads")
        self.written = given(half, "half to write to")
        self.written_number = given(self.shapes.key_beats, "which of its beats; keys have the header's first")
        self.written_data = given(machine.port_bits, "that beat")
        self.written_enable = given(1, "write it")
        self.reads = given(stream.Signature(half), "halves to read")
        self.beats = gives(stream.Signature(machine.port_bits), "all their beats, in order")
        self.level = gives(count_shape(READ_AHEAD), "beats that are there")
        self.further = gives(1, "a beat is there in two cycles, even if two more are taken until then")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        self._tags(m)
        headers = self.shapes.most_header_beats
        m.submodules.body = body = Memory(shape=machine.port_bits, depth=machine.history, init=[])
        m.submodules.header = header = Memory(shape=machine.port_bits, depth=headers * machine.history_slots, init=[])

        # Writes, registered on their way
        number, first = self.written_number, Mux(self.written.values, 0, self.heads.header_beats)
        in_header = number < first
        body_write, header_write = body.write_port(), header.write_port()
        beat = self.written.base + Mux(self.written.values, self.heads.kv_words, 0) + number - first
        m.d.sync += [
            body_write.addr.eq(beat),
            body_write.en.eq(self.written_enable & ~in_header),
            body_write.data.eq(self.written_data),
            header_write.addr.eq(self.written.slot * headers + number),
            header_write.en.eq(self.written_enable & in_header),
        ]
        m.d.comb += header_write.data.eq(body_write.data)

        # Reads: as many under way as there is room for
        m.submodules.held = held = BeatPlaces(machine.port_bits, READ_AHEAD)
        room = Signal(range(READ_AHEAD + 1), init=READ_AHEAD)
        left, header_left, address, header_address = (
            Signal.like(self.heads.kv_words),
            Signal.like(self.heads.header_beats),
            Signal(bits_for_index(machine.history)),
            Signal.like(header_write.addr),
        )
        idle = (left == 0) & (header_left == 0)
        issue, of_header = Signal(), Signal()
        asked = self.reads.payload
        m.d.comb += [self.reads.ready.eq(idle), issue.eq(~idle & (room != 0)), of_header.eq(header_left != 0)]
        with m.If(self.reads.valid & idle):
            m.d.sync += [
                left.eq(self.heads.kv_words),
                header_left.eq(Mux(asked.values, 0, self.heads.header_beats)),
                address.eq(asked.base + Mux(asked.values, self.heads.kv_words, 0)),
                header_address.eq(asked.slot * headers),
            ]
        with m.Elif(issue & of_header):
            m.d.sync += [header_left.eq(header_left - 1), header_address.eq(header_address + 1)]
        with m.Elif(issue):
            m.d.sync += [left.eq(left - 1), address.eq(address + 1)]
        body_read, header_read = body.read_port(), header.read_port()
        came = registered(m, issue, "came")
        m.d.comb += [
            body_read.addr.eq(address),
            header_read.addr.eq(header_address),
            held.push.eq(registered(m, came, "came_2")),
            held.push_data.eq(
                registered(m, Mux(registered(m, of_header, "of_header_1"), header_read.data, body_read.data), "read")
            ),
            self.level.eq(held.level),
            self.further.eq(held.further),
        ]
        connect(m, held.beats, flipped(self.beats))
        # A beat's place is free a cycle after it is taken.
        taken = registered(m, self.beats.valid & self.beats.ready, "taken")
        with m.If(issue & ~taken):
            m.d.sync += room.eq(room - 1)
        with m.Elif(taken & ~issue):
            m.d.sync += room.eq(room + 1)
        return m

    def _tags(self, m: Module) -> None:
        slots = self.machine.history_slots
        m.submodules.tags = tags = Memory(shape=data.StructLayout({"valid": 1, "place": PLACE_BITS}), depth=2 * slots, init=[])
        write, read = tags.write_port(), tags.read_port()
        place, forget = Signal(PLACE_BITS), Signal(range(2 * slots))
        with m.If(self.lookup_enable):
            m.d.sync += place.eq(self.place)
        with m.If(self.restart):
            m.d.sync += [self.clearing.eq(1), forget.eq(0)]
        with m.Elif(self.clearing):
            m.d.sync += [forget.eq(forget + 1), self.clearing.eq(forget != 2 * slots - 1)]
        m.d.comb += [
            read.addr.eq(Cat(self.lookup.values, self.lookup.slot)),
            read.en.eq(self.lookup_enable),
            self.hit.eq(read.data.valid & (read.data.place == place)),
            write.addr.eq(Mux(self.clearing, forget, Cat(self.keep.values, self.keep.slot))),
            write.en.eq(self.clearing | self.keep_enable),
            write.data.valid.eq(~self.clearing),
            write.data.place.eq(place),
        ]
