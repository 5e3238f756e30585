"""KVWRITE: new KV entries for the listed slots, the previous layer's for the others."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.memory import Memory

from hw.arithmetic.fp32 import fp32_to_half_word
from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, largest, registered
from hw.arithmetic.signature import Signature, index, lane
from hw.component import Bundle, Component, given, gives
from hw.control.issue import Issue, field
from hw.kv.map import MapEntry
from hw.kv.shapes import HeadShapes
from hw.memory.buffer import ELEMENT_ADDRESS_BITS
from hw.memory.reader import Run
from hw.memory.writer import WriteBeat
from skipopu.isa.spec import BUFFER_UNIT, KVWRITE
from skipopu.machine.config import Machine


class EntryWrites(Bundle):
    """Writes to one port's memory, seen by who writes."""

    def __init__(self, machine: Machine) -> None:
        self.runs = gives(stream.Signature(Run(machine)), "where to write")
        self.beats = gives(stream.Signature(WriteBeat(machine)), "what to write there")
        super().__init__()


class KvWriteUnit(Component):
    """Converts K and V to FP16 in one pass, stages the entry, and writes it to the next port in turn.

    Token t's entries lie in port t mod ports, whatever the layer, so that attention finds its entries evenly spread; each port
    hands out its places in turn. A decoded token's waits while ``hold`` where the instruction says so.

    Latency: a listed slot takes, per head of K and of V, a cycle per ``vector_lanes`` elements of its beats and 4 for its exponent, a
    cycle per beat of the header, a cycle for its turn and one for the hold, then the write, and 1 for the map; another slot takes 3.
    Throughput: a beat of the write per cycle; an entry at a time.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        row, self.shapes = bits_for_index(machine.map_entries), HeadShapes(machine)
        self.ports = [gives(EntryWrites(machine), f"port {p}", f"{{}}_{p}") for p in range(machine.ports)]
        self.active = given(1, "the instruction runs, level")
        self.instruction = given(Issue(machine), "the KVWRITE")
        self.done = gives(1, "it is done, one cycle")
        self.digest = gives(32, "signature of what it wrote")
        self.working = gives(1, "elements are converted or a beat is written")
        self.waiting = gives(1, "a write waits for memory")
        self.pool_full = gives(1, "a port has no place left, level")
        self.missing = gives(1, "an unlisted slot at the first layer has no entry, level")
        self.restart = given(1, "forget all entries")
        self.hold = given(1, "the array reads weights")
        self.kv_heads = given(self.shapes.kv_heads, "KV heads")
        self.head_dim = given(self.shapes.head_dim, "elements of a head")
        self.kv_base = given(32, "address of the pool of entries, 64-byte units")
        self.kv_entry = given(self.shapes.kv_entry, "size of an entry, 64-byte units")
        self.kv_slots = given(20, "places per port")
        self.context = given(20, "tokens of a layer's row of the map")
        self.read_address = gives(ELEMENT_ADDRESS_BITS, "elements of the buffer to read")
        self.read_enable = gives(1, "read them")
        self.read_data = given(32 * machine.vector_lanes, "those elements, FP32, a cycle later")
        self.map_read_address = gives(row, "entry of the map to read")
        self.map_read_data = given(MapEntry(), "that entry, a cycle later")
        self.map_write_address = gives(row, "entry of the map to write")
        self.map_write_data = gives(MapEntry(), "that entry")
        self.map_write_enable = gives(1, "write it")
        self.written = given(machine.ports, "per port: the write is done, one cycle")
        self.entries = gives(32, "entries written so far")
        self.saturated = gives(1, "a number was clipped")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes, kv_lanes = self.machine, self.machine.vector_lanes, self.machine.kv_lanes
        word = self.instruction.word
        beat_shift = (machine.beat_bytes - 1).bit_length()
        m.submodules.writes = writes = Signature(lanes)
        m.d.comb += self.digest.eq(writes.total)
        header_beats_most = self.shapes.most_header_beats
        depth = header_beats_most + 2 * machine.query // kv_lanes
        m.submodules.staging = staging = Memory(shape=machine.port_bits, depth=depth, init=[])
        stage_write, stage_read = staging.write_port(granularity=16 * lanes), staging.read_port()

        slot, base = Signal(bits_for_index(machine.tokens)), Signal(ELEMENT_ADDRESS_BITS)
        listed = self.instruction.mask.bit_select(slot, 1)
        late, from_position = Signal(), field(word, KVWRITE, "late")
        beyond = (from_position != 0) & (self.instruction.position >= from_position)
        m.d.comb += late.eq(beyond & (self.instruction.count == 1))
        # Walk: K's heads, then V's, each head_dim elements
        head, value_half, offset = Signal.like(self.kv_heads), Signal(), Signal(11)
        element = Signal(20)  # in the source vector
        beat_index = Signal(range(depth + 1))  # staging beat of the head's first element
        reading = Signal()
        header_beats, head_beats = Signal(self.shapes.header_beats), Signal(self.shapes.head_beats)
        m.d.comb += [
            header_beats.eq((2 * self.kv_heads + (machine.beat_bytes - 1)) >> beat_shift),
            head_beats.eq((self.head_dim + (kv_lanes - 1)) >> (kv_lanes.bit_length() - 1)),
            self.read_address.eq(base + element),
            self.read_enable.eq(reading & (offset < self.head_dim)),
        ]
        # Pipeline: 1 buffer data, 2 half words, then staging
        halves, overflow = [], []
        reading_1 = delay_valid(m, reading, 1, "reading")
        inside_1 = delay(m, offset < self.head_dim, 1, "inside")
        for k in range(lanes):
            half, saturated = fp32_to_half_word(m, self.read_data[32 * k : 32 * k + 32], f"half_{k}")
            halves.append(registered(m, Mux(inside_1, half, 0), f"value_{k}"))
            overflow.append(saturated)
        saturated_2 = registered(m, Cat(overflow).any() & inside_1 & reading_1, "overflow")
        m.d.comb += self.saturated.eq(saturated_2)
        valid_2 = delay_valid(m, reading_1, 1, "staged")
        inside_2 = delay(m, inside_1, 1, "inside_2")
        element_2, offset_2 = delay(m, element, 2, "element"), delay(m, offset, 2, "offset")
        beat_2 = delay(m, beat_index, 2, "beat")
        low, high = lanes.bit_length() - 1, kv_lanes.bit_length() - 1
        part = offset_2[low:high] if high > low else Const(0, 1)
        field_exponents = [Signal(5, name=f"field_exponent_{k}") for k in range(lanes)]
        m.d.comb += [e.eq(Mux(h[10:15] == 0, 1, h[10:15])) for e, h in zip(field_exponents, halves, strict=True)]
        most = largest(m, field_exponents, "exponent_tree")
        exponent = Signal(5)
        head_start_2 = offset_2 == 0
        with m.If(valid_2):
            m.d.sync += exponent.eq(Mux(head_start_2 | (most > exponent), most, exponent))
        for k in range(lanes):
            m.d.comb += [
                writes.valid[k].eq(valid_2 & inside_2),
                writes.where[k].eq(index(0, slot, lane(element_2, k, lanes))),
                writes.value[k].eq(halves[k]),
            ]
        header = [Signal(machine.port_bits, name=f"header_{i}") for i in range(header_beats_most)]
        count = Signal(range(8))
        store_header, header_index = Signal(), Signal(range(max(2, header_beats_most + 1)))
        header_value = Signal(machine.port_bits)
        for i, beat in enumerate(header):
            with m.If(header_index == i):
                m.d.comb += header_value.eq(beat)
        with m.If(store_header):
            m.d.comb += [
                stage_write.addr.eq(header_index),
                stage_write.data.eq(header_value),
                stage_write.en.eq((1 << kv_lanes // lanes) - 1),
            ]
        with m.Else():
            m.d.comb += [
                stage_write.addr.eq(beat_2 + (offset_2 >> high)),
                stage_write.data.eq(Cat(Cat(halves) for _ in range(kv_lanes // lanes))),
                stage_write.en.eq(Mux(valid_2, Const(1, kv_lanes // lanes) << part, 0)),
            ]
        # Port of the slot, of the chunk's first slot; places handed out so far.
        port, chunk_port, chunk_position = (
            Signal(range(max(2, machine.ports))),
            Signal(range(max(2, machine.ports))),
            Signal(24),
        )
        places = Array(Signal(20, name=f"places_{p}") for p in range(machine.ports))
        place = Signal(20)
        m.d.comb += place.eq(places[port])
        with m.If(self.restart):
            m.d.sync += [chunk_port.eq(0), chunk_position.eq(0), self.entries.eq(0)]
            m.d.sync += [register.eq(0) for register in (*places, *header)]

        def following(p: Signal) -> Value:
            return Mux(p == machine.ports - 1, 0, p + 1)

        row = self.instruction.map_row + slot + self.instruction.position
        m.d.comb += [self.map_read_address.eq(row - self.context), self.map_write_address.eq(row)]
        mapped = MapEntry()(Signal(MapEntry().size))
        total_beats = Signal(range(depth + 1))
        send = Signal(range(depth + 2))
        entry_address = Signal(40)
        m.d.sync += entry_address.eq(self.kv_base + place * self.kv_entry)
        beats_valid, beats_ready, runs_valid, runs_ready, written = Signal(), Signal(), Signal(), Signal(), Signal()
        for p, to in enumerate(self.ports):
            runs, beats = to.runs, to.beats
            here = port == p
            m.d.comb += [
                runs.valid.eq(runs_valid & here),
                runs.payload.beat.eq(entry_address << (6 - beat_shift)),
                runs.payload.count.eq(total_beats),
                beats.valid.eq(beats_valid & here),
                beats.payload.data.eq(stage_read.data),
                beats.payload.strobe.eq((1 << machine.beat_bytes) - 1),
            ]
            with m.If(here):
                m.d.comb += [runs_ready.eq(runs.ready), beats_ready.eq(beats.ready), written.eq(self.written[p])]
        waiting_written = Signal()
        m.d.comb += [
            self.working.eq(reading | (beats_valid & beats_ready)),
            self.waiting.eq((runs_valid & ~runs_ready) | (beats_valid & ~beats_ready) | waiting_written),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.active & (chunk_position != self.instruction.position)):
                    m.d.sync += [chunk_position.eq(chunk_position + 1), chunk_port.eq(following(chunk_port))]
                with m.Elif(self.active):
                    m.d.comb += writes.clear.eq(1)
                    m.d.sync += [slot.eq(0), base.eq(field(word, KVWRITE, "src") * BUFFER_UNIT), port.eq(chunk_port)]
                    m.next = "SLOT"
            with m.State("SLOT"):
                m.d.sync += [
                    head.eq(0),
                    value_half.eq(0),
                    offset.eq(0),
                    element.eq(0),
                    beat_index.eq(header_beats),
                    total_beats.eq(header_beats),
                    count.eq(0),
                ]
                with m.If(slot >= self.instruction.count):
                    m.next = "SETTLE"
                with m.Elif(~listed & self.instruction.first_layer):
                    m.d.comb += self.missing.eq(1)
                with m.Elif(~listed):
                    m.next = "COPY"
                with m.Elif(place >= self.kv_slots):
                    m.d.comb += self.pool_full.eq(1)
                with m.Else():
                    m.next = "HEAD"
            with m.State("COPY"):
                m.d.sync += mapped.eq(self.map_read_data)
                m.next = "MAP"
            with m.State("HEAD"):
                m.d.comb += reading.eq(1)
                m.d.sync += [offset.eq(offset + lanes), element.eq(element + lanes)]
                with m.If(offset + lanes >= (head_beats << high)):
                    m.d.sync += [offset.eq(0), count.eq(0)]
                    m.next = "EXPONENT"
            with m.State("EXPONENT"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == 3):
                    which = Cat(value_half, head)
                    for i, beat in enumerate(header):
                        with m.If((which >> beat_shift) == i):
                            m.d.sync += beat.word_select(which[:beat_shift], 8).eq(exponent)
                    m.d.comb += [
                        writes.valid[0].eq(1),
                        writes.where[0].eq(index(1, slot, which)),
                        writes.value[0].eq(exponent),
                    ]
                    m.d.sync += [
                        beat_index.eq(beat_index + head_beats),
                        total_beats.eq(total_beats + head_beats),
                        head.eq(head + 1),
                        header_index.eq(0),
                        element.eq(element - (head_beats << high) + self.head_dim),
                    ]
                    m.next = "HEAD"
                    with m.If(head == self.kv_heads - 1):
                        m.d.sync += [head.eq(0), value_half.eq(1)]
                        with m.If(value_half):
                            m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += store_header.eq(1)
                m.d.sync += header_index.eq(header_index + 1)
                with m.If(header_index == header_beats - 1):
                    m.d.sync += send.eq(0)
                    m.next = "HOLD"
            with m.State("HOLD"):
                with m.If(~(self.hold & late)):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [runs_valid.eq(1), stage_read.addr.eq(0)]
                with m.If(runs_ready):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [beats_valid.eq(1), stage_read.addr.eq(Mux(beats_ready, send + 1, send))]
                with m.If(beats_ready):
                    m.d.sync += send.eq(send + 1)
                    with m.If(send == total_beats - 1):
                        m.next = "WRITTEN"
            with m.State("WRITTEN"):
                m.d.comb += waiting_written.eq(~written)
                with m.If(written):
                    m.d.sync += [
                        mapped.place.eq(place),
                        self.entries.eq(self.entries + 1),
                        places[port].eq(place + 1),
                    ]
                    m.next = "MAP"
            with m.State("MAP"):
                m.d.comb += [
                    self.map_write_data.eq(mapped),
                    self.map_write_enable.eq(1),
                    writes.valid[0].eq(1),
                    writes.where[0].eq(index(2, slot, Const(0, 1))),
                    writes.value[0].eq((mapped.place << 8) | port),
                ]
                stride = field(word, KVWRITE, "stride") * BUFFER_UNIT
                m.d.sync += [slot.eq(slot + 1), base.eq(base + stride), port.eq(following(port)), count.eq(0)]
                m.next = "SLOT"
                with m.If(slot == machine.tokens - 1):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == Signature.LATENCY):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m
