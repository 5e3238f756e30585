"""One slice of the array: a port's weights, multipliers, group scales and FP32 accumulators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream

from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, registered
from hw.component import Component, given, gives
from hw.library import Library
from hw.pe.accumulate import SUM_BITS, Group, accumulate
from hw.pe.activation import MANTISSA_SUM_BITS
from hw.pe.dot import PROBABILITY_BITS, WEIGHTED_BITS, PackedDot
from hw.pe.formats import FORMAT_BITS, two_digits, zero_points
from skipopu.isa.spec import BLOCK_ROWS
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.formats import INT4, INT4Z, SCALE_WORD, ZERO_BITS
from skipopu.numerics.packing import WEIGHT_BITS

# A group's sum over its beats: 512 products of an 18-bit activation with one operand.
ROW_SUM_BITS = ALIGNED_BITS + WEIGHT_BITS + 9


class Take(data.StructLayout):
    """What all taking slices do with their next weight beat.

    scale: keep it as piece ``scale_beat`` of the scale word. first: keep it as the pair's first member. second: it is the
    second member, the pair is complete. scale_index: of the pair's first row in the scale word.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "scale": 1,
                "scale_beat": bits_for_index(max(2, SCALE_WORD // machine.beat_bytes)),
                "first": 1,
                "second": 1,
                "scale_index": 5,
            }
        )


class Step(data.StructLayout):
    """What all slices do in one cycle, in lockstep.

    product: multiply the pair with a token's activations. token: list position. first_beat, last_beat: of the group.
    first_group: of the output. row: of the block (INT4: the pair's first). bank: of the accumulators. piece: place of the pair in its beats,
    on machines where several stand there.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "product": 1,
                "token": bits_for_index(machine.tokens),
                "first_beat": 1,
                "last_beat": 1,
                "first_group": 1,
                "row": 3,
                "bank": 1,
            }
            | ({"piece": 2} if machine.short_groups else {})
        )


class Slice(Component):
    """``port_bits / 4`` multipliers of 27 x 18 bits behind one memory port.

    Weights: a beat of one row and a beat of its neighbour, or a row's two digits, form a pair; each
    multiplier holds one nibble of either and multiplies both by one activation per cycle. Two trees sum the halves of the
    products exactly; per group and row the integer is scaled, rounded once to FP32 and added to the output's accumulator
    ``latency`` - 1 cycles after the group's last step. The same accumulator is updated at most every 6 cycles, every 4 where several
    groups stand in a beat. One pair per cycle: two INT4 group results, without stalls. Where groups have zero points, a group's integer
    starts at -z times the sum of its mantissas.

    Attention: with ``keys`` each quarter of the multipliers takes one query (from ``activation``) and all take the entry's
    elements; ``dots`` are the quarters' exact sums, ``dot_latency`` cycles after the step. With ``values`` the first quarter
    multiplies the elements by one probability; ``products`` follow ``product_latency`` cycles after the step.

    Latency: ``latency`` from a group's last step to its accumulators, ``dot_latency`` and ``product_latency`` for attention.
    Throughput: a beat and a step per cycle.

    Parameters:
        machine: the machine.
        library: takes the multipliers, which are alike; without one each is a unit of its own.
    """

    def __init__(self, machine: Machine, library: Library | None = None) -> None:
        self.machine, self.library = machine, library
        self.depth = 1 << self.drain_address_bits(machine)
        self.beats = given(stream.Signature(machine.port_bits), "weights and their scales")
        self.take = given(Take(machine), "what to do with the next beat, if this slice takes one")
        self.taking = given(1, "this slice takes the next beat")
        self.format = given(FORMAT_BITS, "of the weights")
        self.step = given(Step(machine), "what to multiply")
        self.active = given(1, "this slice takes part in the step")
        self.activation = given(
            ALIGNED_BITS * machine.weight_lanes, "mantissas, three cycles after the step; of queries with ``keys``"
        )
        self.exponent = given(8, "their group's exponent, with them")
        if machine.zero_points:
            self.sum = given(signed(MANTISSA_SUM_BITS), "the sum of their group's mantissas, with them")
        self.keys = given(1, "attention multiplies queries by keys")
        self.values = given(1, "attention multiplies probabilities by values")
        self.element = given(ALIGNED_BITS * machine.kv_lanes, "mantissas of an entry's elements, three cycles after the step")
        self.probability = given(PROBABILITY_BITS, "of the entry, with them")
        self.drain_address = given(
            self.drain_address_bits(machine), "accumulators to read: token, pair of rows, bank from below"
        )
        self.drain_even = gives(32, "of the pair's first row, FP32, a cycle later")
        self.drain_odd = gives(32, "of its second row")
        self.dots = gives(self.dot_bits(machine) * QUERY_LANES, "sums of a query's products each")
        self.products = gives(WEIGHTED_BITS * machine.kv_lanes, "probability times elements")
        self.saturated = gives(1, "a sum was beyond FP32")
        super().__init__()

    @staticmethod
    def drain_address_bits(machine: Machine) -> int:
        """Width of (bank, pair of rows, token)."""
        return 1 + (BLOCK_ROWS // 2 - 1).bit_length() + bits_for_index(machine.tokens).width

    @staticmethod
    def dot_bits(machine: Machine) -> int:
        """Width of a quarter's sum of products of two aligned numbers."""
        return PackedDot.dot_bits(machine.weight_lanes)

    # Cycles from a step to its products and to its quarters' sums, and from a group's last step until its accumulator can be read.
    product_latency = staticmethod(pipeline.product)
    dot_latency = staticmethod(pipeline.dot)
    latency = staticmethod(pipeline.accumulated)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        step, take = self.step, self.take
        working = self.active & step.product
        m.d.comb += self.beats.ready.eq(self.taking & (take.scale | take.first | take.second))

        # A beat and what is done with it are registered here, so that no way from the sequencer to all ports goes on into the lanes.
        taken = registered(m, Mux(self.taking, take.as_value(), 0), "taken")
        beat = registered(m, self.beats.payload, "beat")
        what = data.View(Take(machine), taken)
        scales, zeros = self._take_scales(m, what, beat)
        m.submodules.dot = dot = PackedDot(
            machine.weight_lanes, machine.multiplier, machine.weight_formats, library=self.library
        )
        lower, upper = dot.lower, dot.upper
        m.d.comb += [
            dot.beat.eq(beat),
            dot.first.eq(what.first),
            dot.second.eq(what.second),
            dot.format.eq(self.format),
            dot.activation.eq(self.activation),
            dot.keys.eq(self.keys),
            dot.values.eq(self.values),
            dot.element.eq(self.element),
            dot.probability.eq(self.probability),
            self.dots.eq(dot.dots),
            self.products.eq(dot.products),
        ]
        at_total = self.product_latency(machine) + (machine.weight_lanes - 1).bit_length() + 1
        digits = two_digits(self.format, machine.weight_formats)
        begins = [self._less(m, zero, at_total, name) for zero, name in zip(zeros, ("lower", "upper"), strict=True)]

        # Sums over the group's beats, per token
        token = delay(m, step.token, at_total, "token")
        first_beat = delay(m, step.first_beat, at_total, "first_beat")
        sums: list[Value] = []
        for name, total, begin in zip(("lower", "upper"), (lower, upper), begins, strict=True):
            kept = Array(Signal(signed(ROW_SUM_BITS), name=f"{name}_sum_{j}", reset_less=True) for j in range(machine.tokens))
            running = Signal(signed(ROW_SUM_BITS), name=f"{name}_running")
            m.d.comb += running.eq(total + Mux(first_beat, begin, kept[token]))
            with m.If(delay_valid(m, working, at_total, f"{name}_working")):
                m.d.sync += kept[token].eq(running)
            sums.append(running)
        whole = sums[0] + (sums[1] << 4)  # two digits: lower + 16 * upper

        # Scale, round, accumulate: rows 2 * pair and 2 * pair + 1 side by side
        address = Cat(step.token, step.row[1:], step.bank)
        saturated: list[Value] = []
        for parity, total in enumerate(sums):
            name = ("even", "odd")[parity]
            group_sum = Signal(signed(SUM_BITS), name=f"{name}_group_sum")
            m.d.sync += group_sum.eq(Mux(digits, whole, total))
            scale = delay(m, scales[parity], at_total - 1, f"{name}_scale")  # a cycle behind the step
            here = working & step.last_beat & (~digits | (step.row[0] == parity))
            exponent = self.exponent, at_total + 1 - pipeline.OPERANDS
            group = Group(parity, here, step.first_group, address, at_total + 1, self.drain_address, *exponent)
            drained, beyond, at_write = accumulate(m, group, group_sum, scale, self.depth, machine.short_groups)
            m.d.comb += (self.drain_odd if parity else self.drain_even).eq(drained)
            saturated += beyond
            assert at_write + 1 <= self.latency(machine)
        m.d.comb += self.saturated.eq(Cat(saturated).any())
        return m

    def _less(self, m: Module, zero: Value, at_total: int, name: str) -> Value:
        """What a group's integer starts at, ``at_total`` cycles after the step, of the pair's ``zero`` point at the step."""
        if not self.machine.zero_points:
            return Const(0)
        product = registered(m, self.sum * delay(m, -zero, pipeline.OPERANDS - 1, f"{name}_zero"), f"{name}_product")
        return delay(m, product[:ROW_SUM_BITS].as_signed(), at_total - pipeline.OPERANDS - 1, f"{name}_begin")

    def _take_scales(self, m: Module, take: Any, beat: Value) -> tuple[Sequence[Value], Sequence[Value]]:
        """The pair's two scales, a cycle behind the step: of its first and second row (two digits: of its only row, twice); their zero points,
        0 for none."""
        formats, none = self.machine.weight_formats, [Const(0), Const(0)]
        scales = [Signal(16, name=f"scale_{i}", reset_less=True) for i in range(INT4.scales_per_word)]
        per_word, behind = INT4Z.scales_per_word, Cat(scales[INT4Z.scales_per_word :])
        fields = [behind[ZERO_BITS * i : ZERO_BITS * (i + 1)] for i in range(per_word)]
        less = zero_points(self.format, formats)
        per_beat = self.machine.kv_lanes
        for i, scale in enumerate(scales):
            with m.If(take.scale & (take.scale_beat == i // per_beat)):
                at = 16 * (i % per_beat)
                m.d.sync += scale.eq(beat[at : at + 16])
        if self.machine.short_groups:
            own = self._of_block(m, take, scales, 16, "scale")
            zero = self._of_block(m, take, [Mux(less, zero, 0) for zero in fields], ZERO_BITS, "zero")
            return own, zero if self.machine.zero_points else none
        of_pair = [Signal(16, name=f"pair_scale_{k}", reset_less=True) for k in range(2)]
        with m.If(take.second):
            own = Array(scales)[take.scale_index]
            m.d.sync += [
                of_pair[0].eq(own),
                of_pair[1].eq(Mux(two_digits(self.format, formats), own, Array(scales[1::2])[take.scale_index[1:]])),
            ]
        if not self.machine.zero_points:
            return of_pair, none
        zeros = [Signal(ZERO_BITS, name=f"pair_zero_{k}", reset_less=True) for k in range(2)]
        with m.If(take.second):
            for zero, of_members in zip(zeros, (fields[0::2], fields[1::2]), strict=True):
                m.d.sync += zero.eq(Mux(less, Array(of_members)[take.scale_index[1:]], 0))
        return of_pair, zeros

    def _of_block(self, m: Module, take: Any, values: Sequence[Value], bits: int, name: str) -> list[Value]:
        """Of a scale word's ``values`` those of the two rows of a step: 8 are kept with the beats, a block's, and chosen from behind the step."""
        digits, piece = two_digits(self.format, self.machine.weight_formats), delay(m, self.step.piece, 1, f"{name}_piece")
        kept = [Signal(bits, name=f"kept_{name}_{k}", reset_less=True) for k in range(BLOCK_ROWS)]
        index = Signal(3, name=f"{name}_index", reset_less=True)
        with m.If(take.second):
            m.d.sync += index.eq(take.scale_index[:3])
            for k, value in enumerate(kept):
                m.d.sync += value.eq(Array(values[k::BLOCK_ROWS])[take.scale_index[3:]])
        chosen: list[Value] = []
        for parity in range(2):
            at, one = Signal(3, name=f"{name}_at_{parity}"), Signal(bits, name=f"{name}_{('even', 'odd')[parity]}")
            m.d.comb += [
                at.eq(index + Mux(digits, piece, Cat(Const(parity, 1), piece))),
                one.eq(Array(kept)[at]),
            ]
            chosen.append(one)
        return chosen
