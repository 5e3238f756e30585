"""One slice of a stationary array: a port's weights, multipliers, group scales and FP32 accumulators."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, registered
from hw.component import Bundle, Component, given, gives
from hw.library import Library
from hw.pe.accumulate import SUM_BITS, Group, accumulate
from hw.pe.activation import MANTISSA_SUM_BITS
from hw.pe.dot import PROBABILITY_BITS
from hw.pe.formats import FORMAT_BITS, one_of, two_digits, zero_points
from hw.pe.stationary.lanes import ADDED_BITS, Lanes
from hw.pe.stationary.tiles import largest
from skipopu.isa.spec import BLOCK_ROWS
from skipopu.machine import pipeline
from skipopu.machine.config import BEATS_HELD, QUERY_LANES, Machine
from skipopu.numerics.accumulate import SIDE_BITS, SPACING, WIDTH
from skipopu.numerics.accumulate import SUM_BITS as PART_BITS
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.formats import UNSIGNED
from skipopu.numerics.packing import WEIGHT_BITS

SCALES_KEPT = 8  # groups whose scales are held: one that is filled, two in the buffer, and those whose sums are under way, PUT_ASIDE apart
PLAIN = 8  # what plain nibbles are less in the multipliers
ROW_BITS = ALIGNED_BITS + WEIGHT_BITS + 9  # of a row's sum over a group: 512 products of an 18-bit activation


class Fill(data.StructLayout):
    """What all filling slices do with their next weight beat: keep it as a group's ``scale`` or ``zero`` or ``code`` at ``address``."""

    def __init__(self, machine: Machine) -> None:
        places = max(BEATS_HELD, SCALES_KEPT * largest(machine, "scale"))
        super().__init__({"scale": 1, "zero": 1, "code": 1, "address": bits_for_index(places)})


class EntryFill(Bundle):
    """A beat of attention on its way into the buffer, seen by who brings it."""

    def __init__(self, machine: Machine) -> None:
        self.enable = gives(1, "keep it; only while attention has the multipliers")
        self.address = gives(range(BEATS_HELD), "where")
        self.beat = gives(machine.port_bits, "what, from memory")
        if machine.history:
            self.hit = gives(1, "it is in the history buffer")
            self.kept = gives(machine.port_bits, "what, from there")
        super().__init__()


class Beat(data.StructLayout):
    """A beat that all slices multiply in one cycle, in lockstep: its ``address`` among those kept, whether it is the ``first`` or ``last`` of
    its group's sum."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"product": 1, "address": range(BEATS_HELD), "first": 1, "last": 1})


class Sum(data.StructLayout):
    """A sum that all slices take out of their multipliers: of two neighbouring rows, or of a row's digits.

    index: of the sum among its tile's. lane: a multiplier that has it. adds: bits of its number for which others' are added. token: list
    position. bank: of the accumulators. scales: which of those held. begins, ends: a group's first and last part. first_group: of the output.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "valid": 1,
                "index": bits_for_index(machine.weight_lanes // 2),
                "lane": bits_for_index(machine.weight_lanes),
                "adds": pipeline.tree(machine.kv_lanes),
                "token": bits_for_index(machine.tokens),
                "bank": 1,
                "scales": bits_for_index(SCALES_KEPT),
                "begins": 1,
                "ends": 1,
                "first_group": 1,
            }
        )


class StationarySlice(Component):
    """The multipliers of :class:`hw.pe.stationary.lanes.Lanes` behind one memory port, between a buffer of weights and accumulators.

    Weights: beats are kept, those of a group's part in one half of the buffer while those of another are multiplied. A part's sums are
    taken out one after another; where nibbles are plain numbers 8 or 8 - z times the sum of its operands is added. A group's parts are added as
    integers, the whole is scaled, rounded once to FP32 and added to its row's accumulator. The same accumulator is updated at most every 6
    cycles.

    Attention: ``step`` and ``sum`` are those of products, ``valid`` of the sum apart; beats of entries are kept in the same buffer.

    Latency: PUT_ASIDE cycles from a part's last beat until its first sum can be taken, ``latency`` from a sum to its accumulators, of
    attention 1 to ``chosen`` and ``Lanes.selected`` to ``dot``; 2 from a step to ``kept_beat``. Throughput: a beat kept, a beat multiplied with two
    tokens and a sum taken per cycle.
    """

    PUT_ASIDE = pipeline.PUT_ASIDE

    def __init__(self, machine: Machine, library: Library | None = None) -> None:
        self.machine, self.inner_lanes = machine, Lanes(machine, library)
        self.depth = 1 << self.drain_address_bits(machine)
        self.beats = given(stream.Signature(machine.port_bits), "weights and their scales")
        self.fill = given(Fill(machine), "what to do with the next beat, if this slice takes one")
        self.taking = given(1, "this slice takes the next beat")
        if machine.masks:
            self.drop = given(1, "the next beat is not this slice's, it is taken")
        self.format = given(FORMAT_BITS, "of the weights")
        self.step = given(Beat(machine), "what to multiply")
        self.sum = given(Sum(machine), "which sum to take")
        self.active = given(1, "this slice takes part in the sum")
        self.activation = given(
            ALIGNED_BITS * machine.weight_lanes, "operand of each multiplier, STEP_OPERANDS cycles after the step"
        )
        self.exponent = given(8, "of the sum's group and token, with it")
        self.mantissas = given(signed(MANTISSA_SUM_BITS), "the sum of its part's operands, with it")
        self.keys = given(1, "attention multiplies queries by keys")
        self.values = given(1, "attention multiplies probabilities by values")
        self.entry = given(EntryFill(machine), "beat of an entry to keep", "entry_{}")
        self.kept_beat = gives(machine.port_bits, "that a step of attention asked for, two cycles after it")
        self.element = given(ALIGNED_BITS * machine.kv_lanes, "mantissas of its elements, STEP_OPERANDS cycles after the step")
        self.probabilities = given(PROBABILITY_BITS * QUERY_LANES, "of its entry, each query's, with them")
        self.drain_address = given(
            self.drain_address_bits(machine), "accumulators to read: token, pairs of rows, round, bank from below"
        )
        self.drain_even = gives(32 * machine.drain_pairs, "of the first rows of the round's pairs, FP32, a cycle later")
        self.drain_odd = gives(32 * machine.drain_pairs, "of their second rows")
        self.dot = gives(WIDTH, "sum over the multipliers of the query taken, signed")
        self.chosen = gives(ADDED_BITS * machine.kv_lanes, "their own sums, signed")
        self.saturated = gives(1, "a sum was beyond FP32")
        super().__init__()

    @staticmethod
    def drain_address_bits(machine: Machine) -> int:
        """Width of (bank, round, pairs of rows that are not drained at once, token)."""
        rounds = bits_for_index(machine.channel_slots).width
        pairs = (BLOCK_ROWS // 2 // machine.drain_pairs - 1).bit_length()
        return 1 + rounds + pairs + bits_for_index(machine.tokens).width

    latency = staticmethod(pipeline.accumulated)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, taken = self.machine, self.sum
        m.submodules.lanes = lanes = self.inner_lanes
        self._keep(m, lanes)
        at = pipeline.STEP_OPERANDS
        m.d.comb += [
            lanes.format.eq(self.format),
            lanes.operand.eq(self.activation),
            lanes.valid.eq(delay_valid(m, self.step.product, at, "product")),
            lanes.first.eq(delay(m, self.step.first, at, "first")),
            lanes.last.eq(delay(m, self.step.last, at, "last")),
            lanes.keys.eq(self.keys),
            lanes.values.eq(self.values),
            lanes.element.eq(self.element),
            lanes.probabilities.eq(self.probabilities),
            lanes.select.eq(taken.lane),
            lanes.adds.eq(taken.adds),
            self.dot.eq(lanes.own[:WIDTH]),
            self.chosen.eq(lanes.chosen),
        ]
        at_own = Lanes.selected(machine)
        sums = self._whole(m, lanes.own, at_own)
        digits = two_digits(self.format, machine.weight_formats)
        both = sums[0] + (sums[1] << 4)  # lower + 16 * upper
        at_sum = at_own + 4
        scales = self._scales(m, at_sum - 1)
        row_pair = Mux(digits, taken.index >> 1, taken.index)[: len(taken.index)]
        together = (machine.drain_pairs - 1).bit_length()
        address = Cat(taken.token, row_pair[together:], taken.bank)
        flags: list[Value] = []
        for parity, total in enumerate(sums):
            group_sum = Signal(signed(SUM_BITS), name=f"{('even', 'odd')[parity]}_group_sum")
            m.d.sync += group_sum.eq(Mux(digits, both, total))
            here = self.active & taken.valid & taken.ends & (~digits | (taken.index[0] == parity))
            place = row_pair[:together] if together else None
            group = Group(parity, here, taken.first_group, address, at_sum, self.drain_address, self.exponent, at_sum, place)
            drained, beyond, at_write = accumulate(m, group, group_sum, scales[parity], self.depth, False)
            m.d.comb += (self.drain_odd if parity else self.drain_even).eq(drained)
            flags += beyond
            assert at_write + 1 <= self.latency(machine)
        m.d.comb += self.saturated.eq(Cat(flags).any())
        return m

    def _keep(self, m: Module, lanes: Lanes) -> None:
        """The buffer of codes, or of entries: a beat is read the cycle behind its step, and decoded the cycle behind that."""
        m.submodules.codes = codes = Memory(shape=self.machine.port_bits, depth=BEATS_HELD, init=[])
        write, read = codes.write_port(), codes.read_port()
        fill, entry, attention = self.fill, self.entry, self.keys | self.values
        # One choice of three: of two apart each would cost a LUT per bit.
        beat = Mux(entry.hit, entry.kept, entry.beat) if self.machine.history else entry.beat
        m.d.comb += [
            self.beats.ready.eq(self.taking & (fill.scale | fill.zero | fill.code) | (self.drop if self.machine.masks else 0)),
            write.addr.eq(Mux(attention, entry.address, fill.address)),
            write.data.eq(Mux(attention, beat, self.beats.payload)),
            write.en.eq((self.taking & fill.code) | entry.enable),
            read.addr.eq(self.step.address),
            self.kept_beat.eq(registered(m, read.data, "beat")),
            lanes.beat.eq(delay(m, self.kept_beat, pipeline.STEP_OPERANDS - 3, "beat")),
        ]

    def _whole(self, m: Module, own: Value, at_own: int) -> list[Value]:
        """The rows' integers, 3 cycles behind ``own``: taken apart (:func:`skipopu.numerics.accumulate.apart`), corrected, parts added."""
        high, side = own[SPACING:WIDTH], own[WIDTH:]
        over = Signal(signed(SIDE_BITS))
        m.d.comb += over.eq(high[:SIDE_BITS] - side)
        apart = [
            registered(m, Cat(own[:SPACING], over).as_signed(), "lower"),
            registered(m, (high - over)[:PART_BITS].as_signed(), "upper"),
        ]
        corrections = self._corrections(m, at_own + 1)
        bits, taken = ROW_BITS, self.sum
        place = Cat(taken.index, taken.token)
        m.submodules.parts = parts = Memory(shape=2 * bits, depth=1 << len(place), init=[])
        write, read = parts.write_port(), parts.read_port()
        begins, valid = delay(m, taken.begins, at_own + 2, "begins"), delay_valid(m, taken.valid, at_own + 3, "summed")
        sums: list[Value] = []
        for k, (part, correction) in enumerate(zip(apart, corrections, strict=True)):
            before = read.data[bits * k : bits * (k + 1)].as_signed()
            corrected, total = (Signal(signed(bits), name=f"{name}_{k}") for name in ("corrected", "total"))
            m.d.sync += [corrected.eq(part + correction), total.eq(corrected + Mux(begins, 0, before))]
            sums.append(total)
        m.d.comb += [
            read.addr.eq(delay(m, place, at_own + 1, "part_read")),
            write.addr.eq(delay(m, place, at_own + 3, "part_write")),
            write.data.eq(Cat(sums)),
            write.en.eq(valid),
        ]
        return sums

    def _corrections(self, m: Module, at: int) -> list[Value]:
        """What is added for plain nibbles, ``at`` cycles behind the sum."""
        formats, machine = self.machine.weight_formats, self.machine
        plain = [one_of(self.format, (f for f in formats if f.digits[k] == UNSIGNED)) for k in range(2)]
        if not machine.zero_points:
            mantissas = delay(m, self.mantissas, at, "mantissas")
            return [Mux(flag, mantissas << 3, 0).as_signed() for flag in plain]
        m.submodules.zeros = zeros = Memory(shape=machine.port_bits, depth=SCALES_KEPT * largest(machine, "zero"), init=[])
        write, read = zeros.write_port(), zeros.read_port()
        fill, taken = self.fill, self.sum
        pairs = machine.beat_bytes // 2  # of a beat
        m.d.comb += [
            write.addr.eq(fill.address),
            write.data.eq(self.beats.payload),
            write.en.eq(self.taking & fill.zero),
            read.addr.eq(_place(taken.scales, taken.index, pairs, largest(machine, "zero"))),
        ]
        own = read.data.word_select(delay(m, taken.index[: (pairs - 1).bit_length()], 1, "zero_index"), 16)
        of_zeros = zero_points(self.format, formats)
        results: list[Value] = []
        for k in range(2):
            zero = registered(m, Mux(of_zeros, own[8 * k : 8 * k + 5], 0), f"zero_{k}")  # a cycle behind what was read
            factor = Signal(signed(6), name=f"factor_{k}")
            m.d.comb += factor.eq(Mux(plain[k], PLAIN - zero, 0))
            product = registered(m, delay(m, self.mantissas, 2, f"mantissas_{k}").as_signed() * factor, f"less_{k}")
            results.append(delay(m, product, at - 3, f"correction_{k}"))
        return results

    def _scales(self, m: Module, at: int) -> list[Value]:
        """Scales of the sum's two rows (two digits: of its only row, twice), ``at`` cycles behind it."""
        machine, fill = self.machine, self.fill
        pairs, count = machine.beat_bytes // 4, largest(machine, "scale")
        m.submodules.scales = scales = Memory(shape=machine.port_bits, depth=SCALES_KEPT * count, init=[])
        write, read = scales.write_port(), scales.read_port()
        digits = two_digits(self.format, machine.weight_formats)
        index, held = (delay(m, value, at - 2, name) for value, name in ((self.sum.index, "index"), (self.sum.scales, "held")))
        pair = Mux(digits, index >> 1, index)[: len(index)]
        m.d.comb += [
            write.addr.eq(fill.address),
            write.data.eq(self.beats.payload),
            write.en.eq(self.taking & fill.scale),
            read.addr.eq(_place(held, pair, pairs, count)),
        ]
        own = read.data.word_select(delay(m, pair[: (pairs - 1).bit_length()], 1, "scale_index"), 32)
        odd = delay(m, index[0], 1, "scale_odd")
        first, second = own[:16], own[16:]
        only = Mux(odd, second, first)
        return [registered(m, Mux(digits, only, value), f"scale_{k}") for k, value in enumerate((first, second))]


def _place(held: Value, index: Value, per_beat: int, beats: int) -> Value:
    """The beat, of ``beats`` of each group that is ``held``, in which ``index`` stands."""
    inside = index[(per_beat - 1).bit_length() :]
    return held * beats + (inside[: (beats - 1).bit_length()] if beats > 1 else 0)
