"""One slice of the array: a port's weights times the broadcast activations, integer sums, FP32 accumulators."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.fp32 import Add, FromInteger
from hw.arithmetic.pipeline import adder_tree, bits_for_index, delay, delay_valid, registered
from skipopu.isa.spec import BLOCK_ROWS
from skipopu.layout import SCALES_PER_WORD
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS


class Step(data.StructLayout):
    """What all slices do in one cycle, in lockstep.

    scale: take a beat of the scale word (number ``scale_beat``). product: multiply the beat with a token's activations.
    pop: the beat is used up. scale_index: which of the 32 scales. token: list position. first_beat, last_beat: of the
    group. first_group: of the output. row: of the block. bank: of the accumulators.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "scale": 1,
                "scale_beat": bits_for_index(max(2, 2 * SCALES_PER_WORD // machine.beat_bytes)),
                "product": 1,
                "pop": 1,
                "scale_index": 5,
                "token": bits_for_index(machine.tokens),
                "first_beat": 1,
                "last_beat": 1,
                "first_group": 1,
                "row": 3,
                "bank": 1,
            }
        )


class Slice(Component):
    """Multiplies one weight beat per cycle with one token's aligned activations.

    A group's sum over its beats is an exact integer; times the scale's mantissa it is rounded once to FP32 and added to
    the output's accumulator ``latency`` - 1 cycles after the group's last step. The same accumulator is updated at most
    every 8 cycles, the adder takes 3.

    Members: beats (in stream), step, active (in: whether this slice takes part), activation, exponent (in: aligned
    mantissas and biased group exponent of the step's token, one cycle after the step); drain_address (in: bank, pair, token)
    and drain_even, drain_odd (out: accumulators of rows 2*pair and 2*pair+1 one cycle later); saturated (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.depth = 1 << self.drain_address_bits(machine)
        super().__init__(
            {
                "beats": In(stream.Signature(machine.port_bits)),
                "step": In(Step(machine)),
                "active": In(1),
                "activation": In(ALIGNED_BITS * machine.weight_lanes),
                "exponent": In(8),
                "drain_address": In(self.drain_address_bits(machine)),
                "drain_even": Out(32),
                "drain_odd": Out(32),
                "saturated": Out(1),
            }
        )

    @staticmethod
    def drain_address_bits(machine: Machine) -> int:
        """Width of (bank, pair of rows, token)."""
        return 1 + (BLOCK_ROWS // 2 - 1).bit_length() + bits_for_index(machine.tokens).width

    @staticmethod
    def latency(machine: Machine) -> int:
        """Cycles from a group's last step until its accumulator can be read."""
        tree = -(-(machine.weight_lanes.bit_length() - 1) // 3)
        return 1 + 1 + tree + 2 + FromInteger.LATENCY + Add.LATENCY + 2

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.weight_lanes
        step = self.step
        working = self.active & step.product
        m.d.comb += self.beats.ready.eq(self.active & (step.scale | (step.product & step.pop)))

        # Scale word
        scales = [Signal(16, name=f"scale_{i}") for i in range(SCALES_PER_WORD)]
        per_beat = machine.kv_lanes
        for i, scale in enumerate(scales):
            with m.If(self.active & step.scale & (step.scale_beat == i // per_beat)):
                at = 16 * (i % per_beat)
                m.d.sync += scale.eq(self.beats.payload[at : at + 16])

        # 1: weights registered while the activations are read; 2: products
        weight = registered(m, self.beats.payload, "weight")
        products = [
            registered(
                m,
                weight[4 * i : 4 * i + 4].as_signed() * self.activation[ALIGNED_BITS * i : ALIGNED_BITS * (i + 1)].as_signed(),
                f"product_{i}",
            )
            for i in range(lanes)
        ]
        total, tree_latency = adder_tree(m, products)
        at_sum = 2 + tree_latency
        scale_value = Signal(16)
        m.d.comb += scale_value.eq(Array(scales)[delay(m, step.scale_index, 1, "scale_index")])

        # 3: sum over the group's beats
        sum_bits = ALIGNED_BITS + 4 + 9
        sums = Array(Signal(signed(sum_bits), name=f"sum_{j}", reset_less=True) for j in range(machine.tokens))
        token = delay(m, step.token, at_sum, "token")
        running = Signal(signed(sum_bits))
        m.d.comb += running.eq(total + Mux(delay(m, step.first_beat, at_sum, "first_beat"), 0, sums[token]))
        with m.If(delay_valid(m, working, at_sum, "working")):
            m.d.sync += sums[token].eq(running)
        group_sum = registered(m, running, "group_sum")

        # 4: scale
        scale = delay(m, scale_value, at_sum, "scale_value")
        mantissa = Cat(scale[:10], scale[10:15] != 0, Const(0, 1)).as_signed()
        negative = scale[15]
        scaled = Signal(signed(sum_bits + 12))
        m.d.sync += scaled.eq(group_sum * Mux(negative, -mantissa, mantissa))
        scale_exponent = Mux(scale[10:15] == 0, 1, scale[10:15])
        exponent = Signal(signed(12))
        m.d.sync += exponent.eq(delay(m, self.exponent, at_sum, "exponent") + scale_exponent - (ALIGNED_BIAS + 25))
        at_scaled = at_sum + 2
        m.submodules.convert = convert = FromInteger(sum_bits + 12)
        group_valid = delay_valid(m, working & step.last_beat, at_scaled, "group_valid")
        m.d.comb += [convert.mantissa.eq(scaled), convert.exponent.eq(exponent), convert.valid.eq(group_valid)]

        # 5: accumulate
        at_result = at_scaled + FromInteger.LATENCY
        address = Cat(step.token, step.row[1:], step.bank)
        even = Memory(shape=32, depth=self.depth, init=[])
        odd = Memory(shape=32, depth=self.depth, init=[])
        m.submodules.even, m.submodules.odd = even, odd
        m.submodules.add = add = Add()
        first = delay(m, step.first_group, at_result, "first_group")
        is_odd = delay(m, step.row[0], at_result, "odd")
        reads = [memory.read_port() for memory in (even, odd)]
        for port in reads:
            m.d.comb += port.addr.eq(delay(m, address, at_result - 1, "read_address"))
        m.d.comb += [
            add.a.eq(Mux(is_odd, reads[1].data, reads[0].data)),
            add.b.eq(convert.z),
            add.valid.eq(delay_valid(m, group_valid, FromInteger.LATENCY, "result_valid") & ~first),
            self.saturated.eq(add.saturated | convert.saturated),
        ]
        at_write = at_result + Add.LATENCY
        value = Mux(
            delay(m, step.first_group, at_write, "first_written"), delay(m, convert.z, Add.LATENCY, "first_value"), add.z
        )
        for parity, memory in enumerate((even, odd)):
            write, drain = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.addr.eq(delay(m, address, at_write, "write_address")),
                write.data.eq(value),
                write.en.eq(delay_valid(m, working & step.last_beat & (step.row[0] == parity), at_write, f"write_{parity}")),
                drain.addr.eq(self.drain_address),
                (self.drain_odd if parity else self.drain_even).eq(drain.data),
            ]
        assert at_write + 1 <= self.latency(machine)
        return m
