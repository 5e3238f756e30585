"""Which input channels of a product are active: keys of its elements against thresholds; :mod:`skipopu.numerics.mask` has the rule."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Shape, Signal, Value
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid, registered, tree
from hw.component import Component, given, gives
from hw.control.issue import Issue, field
from hw.pe.stationary.active import ActiveWords
from hw.pe.stationary.operands import word_lanes
from hw.pe.tokens import TokenSlots
from hw.widths import ELEMENT_BITS, GROUP_BITS
from skipopu.isa.spec import MATMUL
from skipopu.machine import pipeline
from skipopu.machine.config import TOKENS_AT_ONCE, Machine
from skipopu.numerics import mask
from skipopu.numerics.mask import THRESHOLD_BITS


def channel_count(machine: Machine) -> Shape:
    """Shape of a count of channels of a product."""
    return count_shape(machine.activation)


class MaskUnit(Component):
    """Holds the keys of aligned elements; when a product with thresholds begins, compares them group by group, a token after the other.

    Thresholds are the first beats that the product's first ports bring, a group from each in turn. A product with the mask of the one before
    compares nothing, its channels are counted once more.

    Latency: ``machine.tokens`` + 5 cycles and pipeline.told from ``begin`` to the first group in ``groups_done``; none from an address to ``active_words``, 1 to
    ``masks``. Throughput: ``vector_lanes`` channels of a token per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot, lanes, ports = bits_for_index(machine.tokens), word_lanes(machine), machine.mask_ports
        word = bits_for_index(machine.activation // lanes)
        self.write_slot = given(slot, "token slot of the keys")
        self.write_element = given(ELEMENT_BITS, "element index of the first of ``vector_lanes`` keys")
        self.write_keys = given(mask.KEY_BITS * machine.vector_lanes, "keys to write")
        self.write_enable = given(1, "write now")
        self.begin = given(1, "a product begins, for a cycle")
        self.instruction = given(Issue(machine), "a MATMUL, stable from there on")
        self.group = given(GROUP_BITS, "channels of a group")
        self.inner = given(ELEMENT_BITS, "first element of the inner region")
        self.inverse_rms = given(32 * machine.tokens, "1/rms of each slot, FP32")
        self.ready = given(ports, "ports with a beat")
        if pipeline.told(machine):
            self.behind = given(ports, "ports with a beat in the next cycle, even if the present one is taken")
        self.thresholds = [given(machine.port_bits, f"port {p}'s next beat") for p in range(ports)]
        self.taken = gives(ports, "ports whose beat is taken; the one that is compared")
        self.started = gives(1, "a product with thresholds of its own begins, for a cycle")
        self.groups_done = gives(count_shape((1 << MATMUL.by_name["groups"].width) - 1), "of the present product")
        self.done = gives(1, "all of them; or the product has no thresholds")
        self.masked = gives(1, "the product has thresholds")
        self.channels_read = gives(
            channel_count(machine), "channels that are found active for a token, in each cycle, or all of the product before"
        )
        self.channels_left_out = gives(channel_count(machine), "channels that are found active for none")
        self.read_slots = [given(slot, f"token slot {k} of the masks read") for k in range(TOKENS_AT_ONCE)]
        self.read_word = given(word, "which of those slots' words")
        self.masks = [gives(lanes, f"active channels of slot {k}, all without thresholds") for k in range(TOKENS_AT_ONCE)]
        self.active_words = [
            given(ActiveWords(machine), f"reads of channels that a token has active, {who}", f"{who}_{{}}")
            for who in ("fetch", "fill")
        ]
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, vector, lanes = self.machine, self.machine.vector_lanes, word_lanes(self.machine)
        shift = vector.bit_length() - 1
        pieces = machine.activation // vector
        m.submodules.keys = keys = Memory(shape=mask.KEY_BITS * vector, depth=machine.tokens * pieces, init=[])
        write, read = keys.write_port(), keys.read_port()
        m.d.comb += [
            write.addr.eq(self.write_slot * pieces + (self.write_element >> shift)),
            write.data.eq(self.write_keys),
            write.en.eq(self.write_enable),
        ]
        word = self.instruction.word
        m.submodules.slots = slots = TokenSlots(machine)
        walking, token = Signal(), Signal(bits_for_index(machine.tokens))
        group, piece, port = Signal.like(self.groups_done), Signal(GROUP_BITS), Signal(range(machine.mask_ports))
        place = Signal(range(pieces))  # of the keys in their slot
        m.d.comb += [
            self.masked.eq(self.instruction.masked),
            self.started.eq(self.begin & self.instruction.masked & ~self.instruction.again),
            slots.start.eq(self.begin),
            slots.mask.eq(self.instruction.mask),
            slots.position.eq(token),
        ]
        with m.If(self.started):
            m.d.sync += walking.eq(1)
        per_beat = machine.kv_lanes // vector  # pieces of a beat of thresholds
        in_beat = piece[: (per_beat - 1).bit_length()] if per_beat > 1 else Const(0, 1)
        beat, late = Signal(machine.port_bits), pipeline.told(machine)
        step, taken, last_token = Signal(), Signal(), token + 1 == slots.count
        last_piece = piece + 1 == self.group >> shift
        beat_ends = (in_beat == per_beat - 1) | last_piece
        there = self.ready.bit_select(port, 1)
        if late:  # the port that was told last is just letting go of its beat
            letting_go = registered(m, taken, "letting_go") & (port == registered(m, port, "last_port"))
            there = Mux(letting_go, self.behind.bit_select(port, 1), there)
        m.d.comb += [
            step.eq(walking & slots.ready & there),
            taken.eq(step & last_token & beat_ends),
            self.taken.eq(delay_valid(m, taken << port, late, "taken")),
        ]
        with m.If(step):
            m.d.sync += token.eq(token + 1)
            with m.If(last_token):
                m.d.sync += [token.eq(0), piece.eq(piece + 1), place.eq(place + 1)]
                with m.If(last_piece):
                    m.d.sync += [piece.eq(0), group.eq(group + 1), port.eq(Mux(port == machine.mask_ports - 1, 0, port + 1))]
                    with m.If(group + 1 == field(word, MATMUL, "groups")):
                        m.d.sync += walking.eq(0)
        with m.If(self.begin):
            m.d.sync += [
                *(signal.eq(0) for signal in (group, piece, port, token)),
                place.eq(Mux(field(word, MATMUL, "source"), self.inner >> shift, 0)),
            ]
        # The comparison, a cycle behind its keys' address, which waits until the port knows; what it says is written a cycle later.
        own_slot, own_place = delay(m, slots.slot, late, "own_slot"), delay(m, place, late, "own_place")
        m.d.comb += [
            beat.eq(Array(self.thresholds)[delay(m, port, late, "own_port")]),
            read.addr.eq(own_slot * pieces + own_place),
        ]
        own = registered(m, beat.word_select(delay(m, in_beat, late, "own_in_beat"), THRESHOLD_BITS * vector), "own_thresholds")
        root = self.inverse_rms.word_select(own_slot, 32)[31 - mask.KEY_BITS : 31]
        scale = registered(m, Mux(field(word, MATMUL, "norm"), root, mask.ONE), "scale")
        passed = [
            read.data[mask.KEY_BITS * k : mask.KEY_BITS * (k + 1)] + scale >= own[THRESHOLD_BITS * k : THRESHOLD_BITS * (k + 1)]
            for k in range(vector)
        ]
        found = registered(m, Cat(passed), "found")
        of_piece, of_slot = delay(m, own_place, 2, "of_piece"), delay(m, own_slot, 2, "of_slot")
        written = 2 + late
        valid, first = delay_valid(m, step, written, "valid"), delay(m, token == 0, written, "first")
        self._write(m, found, of_piece, of_slot, valid, delay_valid(m, step & last_token, written, "last"), first)
        finished = delay_valid(m, step & last_token & last_piece, written + 1, "finished")
        with m.If(finished):
            m.d.sync += self.groups_done.eq(self.groups_done + 1)
        with m.If(self.begin & ~(self.instruction.masked & self.instruction.again)):
            m.d.sync += self.groups_done.eq(0)
        m.d.sync += self.done.eq(~self.masked | (self.groups_done == field(word, MATMUL, "groups")))
        assert lanes % vector == 0
        return m

    def _write(self, m: Module, found: Value, piece: Value, slot: Value, valid: Value, last: Value, first: Value) -> None:
        """Each slot's channels, and behind the last token those that any has."""
        machine, vector, lanes = self.machine, self.machine.vector_lanes, word_lanes(self.machine)
        words, parts = machine.activation // lanes, lanes // vector
        shift = (parts - 1).bit_length()
        which = Const(1, parts) << (piece[:shift] if shift else 0)
        word = piece[shift:]
        union, any_token = Signal(vector), Signal(vector)
        m.d.comb += any_token.eq(found | Mux(first, 0, union))
        with m.If(valid):
            m.d.sync += union.eq(any_token)
        active_count = registered(m, tree(list(any_token), lambda a, b: a + b), "active_count")
        counts = [Signal.like(self.channels_read, name=f"of_product_{k}") for k in range(2)]
        present = [active_count, (vector - active_count)[: len(active_count)]]
        with m.If(self.started):
            m.d.sync += [count.eq(0) for count in counts]
        with m.If(delay_valid(m, last, 1, "counted")):
            m.d.comb += [self.channels_read.eq(present[0]), self.channels_left_out.eq(present[1])]
            m.d.sync += [count.eq(count + own) for count, own in zip(counts, present, strict=True)]
        with m.Elif(self.begin & self.instruction.masked & self.instruction.again):
            m.d.comb += [self.channels_read.eq(counts[0]), self.channels_left_out.eq(counts[1])]
        for k, masks in enumerate(self.masks):
            m.submodules[f"masks_{k}"] = memory = Memory(shape=lanes, depth=machine.tokens * words, init=[])
            write, read = memory.write_port(granularity=vector), memory.read_port()
            m.d.comb += [
                write.addr.eq(slot * words + word),
                write.data.eq(found.replicate(parts)),
                write.en.eq(Mux(valid, which, 0)),
                read.addr.eq(self.read_slots[k] * words + self.read_word),
                masks.eq(Mux(self.masked, read.data, (1 << lanes) - 1)),
            ]
        for k, reader in enumerate(self.active_words):
            m.submodules[f"any_{k}"] = memory = Memory(shape=lanes, depth=words, init=[])
            write, read = memory.write_port(granularity=vector), memory.read_port(domain="comb")
            m.d.comb += [
                write.addr.eq(word),
                write.data.eq(any_token.replicate(parts)),
                write.en.eq(Mux(last, which, 0)),
                read.addr.eq(reader.address),
                reader.word.eq(read.data),
            ]
