"""A KV entry in the form in which memory holds it."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib.memory import Memory, WritePort

from hw.arithmetic.fp32 import fp32_to_half_word
from hw.arithmetic.pipeline import LARGEST, bits_for_index, delay, delay_valid, largest_of, registered
from hw.component import Bundle, Component, given, gives
from hw.kv.shapes import Heads, HeadShapes
from hw.memory.buffer import BufferRead
from hw.widths import ELEMENT_BITS, OFFSET_BITS
from skipopu.machine import pipeline
from skipopu.machine.config import Machine


def staging_depth(machine: Machine) -> int:
    """Beats of the longest entry."""
    return HeadShapes(machine).most_header_beats + 2 * machine.query // machine.kv_lanes


class StagedRead(Bundle):
    """A read of the staged entry, seen by who reads."""

    def __init__(self, machine: Machine) -> None:
        self.address = gives(bits_for_index(staging_depth(machine)), "beat of the entry")
        self.data = given(machine.port_bits, "that beat, a cycle later")
        super().__init__()


class EntryFormatter(Component):
    """Converts K and V of a token to FP16 in one pass and stages them behind their heads' largest exponents.

    Latency: per head of K and of V a cycle per ``vector_lanes`` elements of its beats, DRAIN for the last one's exponent, then a cycle per
    beat of the header; ``done`` in the last of them. Throughput: ``vector_lanes`` elements per cycle.
    """

    DRAIN = pipeline.KV_EXPONENT

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lanes, shapes = machine.vector_lanes, HeadShapes(machine)
        self.restart = given(1, "the header's bytes of no head are zero from now on")
        self.start = given(1, "format an entry, one cycle")
        self.source = given(ELEMENT_BITS, "buffer address of its K, behind it V; stands until done")
        self.heads = given(Heads(machine), "the model's heads")
        self.read = gives(BufferRead(machine), "elements, FP32")
        self.reading = gives(1, "elements are read, or those beyond a head passed over")
        self.valid = gives(1, "elements were converted")
        self.element = gives(ELEMENT_BITS, "index in K and V of the first of them")
        self.halves = gives(16 * lanes, "FP16 patterns")
        self.exponent_valid = gives(1, "a head's exponent is known")
        self.exponent = gives(5, "that exponent")
        self.exponent_number = gives(unsigned(1 + shapes.kv_heads.width), "twice the head's number, one more for V")
        self.done = gives(1, "the entry is staged, one cycle")
        self.beats = gives(range(staging_depth(machine) + 1), "how many it takes")
        self.staged = given(StagedRead(machine), "reads of the staged entry")
        self.saturated = gives(1, "a number was clipped")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, heads, lanes = self.machine, self.heads, self.machine.vector_lanes
        m.submodules.staging = staging = Memory(shape=machine.port_bits, depth=staging_depth(machine), init=[])
        write, read = staging.write_port(granularity=16 * lanes), staging.read_port()
        m.d.comb += [read.addr.eq(self.staged.address), self.staged.data.eq(read.data)]
        head, of_values, offset = Signal.like(heads.kv_heads), Signal(), Signal(OFFSET_BITS)
        element, beat = Signal(ELEMENT_BITS), Signal.like(self.beats)  # the head's next element in K and V, its first beat
        padded, ended = Signal(OFFSET_BITS), Signal()
        m.d.comb += [
            padded.eq(heads.head_beats << (machine.kv_lanes.bit_length() - 1)),
            self.read.address.eq(self.source + element),
            self.read.enable.eq(self.reading & (offset < heads.head_dim)),
            self.exponent_number.eq(delay(m, Cat(of_values, head), self.DRAIN, "exponent_number")),
            self.exponent_valid.eq(delay_valid(m, ended, self.DRAIN, "exponent_valid")),
        ]
        self._convert(m, write, offset, element, beat)
        header_number, store_header = Signal(range(max(2, HeadShapes(machine).most_header_beats + 1))), Signal()
        self._header(m, write, store_header, header_number)

        count = Signal(range(self.DRAIN), reset_less=True)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [s.eq(0) for s in (head, of_values, offset, element)]
                    m.d.sync += [beat.eq(heads.header_beats), self.beats.eq(heads.header_beats)]
                    m.next = "HEAD"
            with m.State("HEAD"):
                m.d.comb += self.reading.eq(1)
                m.d.sync += [offset.eq(offset + lanes), element.eq(element + lanes)]
                with m.If(offset + lanes >= padded):
                    m.d.comb += ended.eq(1)
                    m.d.sync += [
                        offset.eq(0),
                        count.eq(0),
                        beat.eq(beat + heads.head_beats),
                        self.beats.eq(self.beats + heads.head_beats),
                        head.eq(head + 1),
                        header_number.eq(0),
                        element.eq(element + lanes - padded + heads.head_dim),
                    ]
                    with m.If(head == heads.kv_heads - 1):
                        m.d.sync += [head.eq(0), of_values.eq(1)]
                        with m.If(of_values):
                            m.next = "EXPONENT"
            with m.State("EXPONENT"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == self.DRAIN - 1):
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += store_header.eq(1)
                m.d.sync += header_number.eq(header_number + 1)
                with m.If(header_number == heads.header_beats - 1):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m

    def _convert(self, m: Module, write: WritePort, offset: Value, element: Value, beat: Value) -> None:
        """The elements read, zeros beyond the head, to FP16, staged; then their head's exponent so far."""
        lanes, kv_lanes = self.machine.vector_lanes, self.machine.kv_lanes
        inside = delay(m, offset < self.heads.head_dim, 1, "inside")
        halves, flags = [], []
        for k in range(lanes):
            value = registered(m, Mux(inside, self.read.data[32 * k : 32 * k + 32], 0), f"value_{k}")
            half, saturated = fp32_to_half_word(m, value, f"half_{k}")
            halves.append(registered(m, half, f"half_{k}"))
            flags.append(registered(m, saturated, f"clipped_{k}"))
        at = pipeline.HALVES
        converted, converted_inside = (
            delay_valid(m, self.reading, at, "converted"),
            delay(m, inside, at - 1, "converted_inside"),
        )
        within = delay(m, offset, at, "within")
        low, high = lanes.bit_length() - 1, kv_lanes.bit_length() - 1
        part = within[low:high] if high > low else Const(0, 1)
        m.d.comb += [
            self.saturated.eq(Cat(flags).any() & converted),
            self.valid.eq(converted & converted_inside),
            self.element.eq(delay(m, element, at, "element")),
            self.halves.eq(Cat(halves)),
            write.addr.eq(delay(m, beat, at, "beat") + (within >> high)),
            write.data.eq(Cat(self.halves for _ in range(kv_lanes // lanes))),
            write.en.eq(Mux(converted, Const(1, kv_lanes // lanes) << part, 0)),
        ]
        exponents = [Mux(h[10:15] == 0, 1, h[10:15]) for h in halves]
        most = largest_of(m, exponents, "exponent")
        compared, first = delay_valid(m, converted, LARGEST, "compared"), delay(m, within == 0, LARGEST, "first")
        with m.If(compared):
            m.d.sync += self.exponent.eq(Mux(first | (most > self.exponent), most, self.exponent))

    def _header(self, m: Module, write: WritePort, store: Value, number: Value) -> None:
        """Exponents gather in the header's beats; ``store``: beat ``number`` of them is staged."""
        machine = self.machine
        byte = (machine.beat_bytes - 1).bit_length()
        header = [Signal(machine.port_bits, name=f"header_{i}") for i in range(HeadShapes(machine).most_header_beats)]
        stored = Signal(machine.port_bits)
        for i, beat in enumerate(header):
            with m.If(number == i):
                m.d.comb += stored.eq(beat)
            with m.If(self.exponent_valid & ((self.exponent_number >> byte) == i)):
                m.d.sync += beat.word_select(self.exponent_number[:byte], 8).eq(self.exponent)
            with m.If(self.restart):
                m.d.sync += beat.eq(0)
        with m.If(store):
            m.d.comb += [write.addr.eq(number), write.data.eq(stored), write.en.eq(-1)]
