"""ALIGN: vectors from the buffer to integers with one exponent per group, with the norm's reduction on the way."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.fp32 import FromInteger
from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, negate_if, registered, tree
from hw.arithmetic.signature import Signature, index
from hw.control.issue import Issue, field
from hw.memory.buffer import ELEMENT_ADDRESS_BITS
from hw.pe.sequencer import TokenSlots
from hw.vector.scalar import ScalarUnit
from skipopu.isa.spec import ALIGN, BUFFER_UNIT, AlignTarget
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS, ALIGNED_MAX


def align_lane(m: Module, x: Value, exponent: Value, name: str) -> Value:
    """Mantissa of FP32 ``x`` under the group's exponent, nearest even, clipped: signed 18 bits, combinational."""
    own = x[23:31]
    distance = Signal(8, name=f"{name}_distance")
    m.d.comb += distance.eq(exponent - own)
    # 24-bit mantissa over 2^(7 + distance)
    reach = Mux(distance > 18, 18, distance)[:5]
    wide = Signal(24 + 18, name=f"{name}_wide")
    m.d.comb += wide.eq(Cat(Const(0, 18), x[:23], Const(1, 1)) >> reach)
    kept, guard, sticky = wide[18 + 7 :], wide[18 + 6], wide[: 18 + 6].any()
    rounded = Signal(18, name=f"{name}_rounded")
    m.d.comb += rounded.eq(kept + (guard & (sticky | kept[0])))
    magnitude = Signal(17, name=f"{name}_magnitude")
    m.d.comb += magnitude.eq(Mux(own == 0, 0, Mux(rounded[17], ALIGNED_MAX, rounded)))
    result = Signal(signed(ALIGNED_BITS), name=f"{name}_aligned")
    m.d.comb += result.eq(negate_if(x[31], magnitude))
    return result


class AlignUnit(Component):
    """Two passes over each group: largest exponent, then mantissas; ``vector_lanes`` elements per cycle.

    With norm the squares of the mantissas are summed beside the second pass. Members: active, instruction (in), done,
    digest (out); group padding lanes come from the target; inverse_size, epsilon, (in, FP32 patterns); buffer read port;
    activation and query write ports (shared signals, ``to_query`` selects; write_offset: element within its group,
    slot_start: a slot's first group follows); inverse_rms (out, 32 bits per slot); scalar_*
    (the scalar unit); saturated.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        super().__init__(
            {
                "active": In(1),
                "instruction": In(Issue(machine)),
                "done": Out(1),
                "digest": Out(32),
                "inverse_size": In(32),
                "epsilon": In(32),
                "read_address": Out(ELEMENT_ADDRESS_BITS),
                "read_enable": Out(1),
                "read_data": In(32 * machine.vector_lanes),
                "to_query": Out(1),
                "write_slot": Out(slot),
                "slot_start": Out(1),
                "write_element": Out(20),
                "write_offset": Out(11),
                "write_data": Out(ALIGNED_BITS * machine.vector_lanes),
                "write_enable": Out(1),
                "exponent_slot": Out(slot),
                "exponent_group": Out(10),
                "exponent_data": Out(8),
                "exponent_enable": Out(1),
                "inverse_rms": Out(32 * machine.tokens),
                "scalar_operation": Out(2),
                "scalar_a": Out(32),
                "scalar_b": Out(32),
                "scalar_start": Out(1),
                "scalar_busy": In(1),
                "scalar_result": In(32),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        word = self.instruction.word
        elements, group = field(word, ALIGN, "elements"), field(word, ALIGN, "group")
        query = field(word, ALIGN, "target") == AlignTarget.QUERY
        norm = field(word, ALIGN, "norm")
        m.submodules.slots = slots = TokenSlots(machine)
        m.submodules.writes = writes = Signature(lanes)
        m.d.comb += [slots.mask.eq(self.instruction.mask), self.to_query.eq(query)]
        padded = Signal(11)
        to_lanes = lambda n: Cat(Const(0, n.bit_length() - 1), ((group + (n - 1)) >> (n.bit_length() - 1)))  # noqa: E731
        m.d.comb += padded.eq(Mux(query, to_lanes(machine.kv_lanes), to_lanes(machine.weight_lanes)))

        position = Signal.like(slots.position)
        slot = Signal.like(slots.slot)
        base = Array(Signal(ELEMENT_ADDRESS_BITS, name=f"base_{s}") for s in range(machine.tokens))
        group_start, target_start = Signal(20), Signal(20)  # element indices in source and target
        group_number = Signal(10)
        offset = Signal(11)
        m.d.comb += [slots.position.eq(position), slot.eq(slots.slot)]

        # Pipeline: read, (1) mask and register, (2) use
        reading, second = Signal(), Signal()
        m.d.comb += [
            self.read_address.eq(base[slot] + group_start + offset),
            self.read_enable.eq(reading & (offset < group) & (group_start + offset < elements)),
        ]
        offset_1, reading_1 = delay(m, offset, 1, "offset"), delay_valid(m, reading, 1, "reading")
        second_1 = delay(m, second, 1, "second")
        group_start_1 = group_start
        values = []
        for k in range(lanes):
            inside = (offset_1 + k < group) & (group_start_1 + offset_1 + k < elements)
            values.append(registered(m, Mux(inside, self.read_data[32 * k : 32 * k + 32], 0), f"value_{k}"))
        valid_2, second_2 = delay_valid(m, reading_1, 1, "valid"), delay(m, second_1, 1, "second")
        exponent = Signal(8)
        largest = tree([v[23:31] for v in values], lambda a, b: Mux(a > b, a, b))
        with m.If(valid_2 & ~second_2 & (largest > exponent)):
            m.d.sync += exponent.eq(largest)
        # Second pass: align (registered), then write and square
        aligned = [registered(m, align_lane(m, v, exponent, f"lane_{k}"), f"aligned_{k}") for k, v in enumerate(values)]
        valid_3 = delay_valid(m, valid_2 & second_2, 1, "aligned_valid")
        element_3 = delay(m, target_start + offset, 3, "element")
        m.d.comb += [
            self.write_slot.eq(slot),
            self.write_element.eq(element_3),
            self.write_offset.eq(delay(m, offset, 3, "write_offset")),
            self.write_data.eq(Cat(aligned)),
            self.write_enable.eq(valid_3),
        ]
        squares = registered(m, tree([a * a for a in aligned], lambda a, b: a + b), "squares")
        valid_4 = delay_valid(m, valid_3, 1, "square_valid")
        square_sum = Signal(46)
        with m.If(valid_4):
            m.d.sync += square_sum.eq(square_sum + squares.as_unsigned())
        m.submodules.convert = convert = FromInteger(47)
        m.d.comb += [
            convert.mantissa.eq(Cat(square_sum, Const(0, 1)).as_signed()),
            convert.exponent.eq((exponent << 1) - 2 * ALIGNED_BIAS),
        ]
        # Signature: mantissas while they are written; exponents and 1/rms through lane 0 afterwards
        kind_one, kind_two = Signal(), Signal()
        for k in range(lanes):
            m.d.comb += [
                writes.valid[k].eq(valid_3),
                writes.where[k].eq(index(0, slot, element_3 + k)),
                writes.value[k].eq(Cat(aligned[k], aligned[k][-1].replicate(32 - ALIGNED_BITS))),
            ]
        with m.If(kind_one):
            m.d.comb += [writes.valid[0].eq(1), writes.where[0].eq(index(1, slot, group_number)), writes.value[0].eq(exponent)]
        with m.If(kind_two):
            m.d.comb += [
                writes.valid[0].eq(1),
                writes.where[0].eq(index(2, slot, Const(0, 1))),
                writes.value[0].eq(self.scalar_result),
            ]
        m.d.comb += self.digest.eq(writes.total)

        total = Signal(32)
        rms = [Signal(32, name=f"inverse_rms_{s}") for s in range(machine.tokens)]
        m.d.comb += self.inverse_rms.eq(Cat(rms))
        count = Signal(range(max(machine.tokens + 1, 9)))
        running = Signal(ELEMENT_ADDRESS_BITS)
        saturating = Signal()
        m.d.comb += self.saturated.eq(saturating & convert.saturated)

        def scalar(operation: int, a: Value, b: Value | int, following: str) -> None:
            m.d.comb += [self.scalar_operation.eq(operation), self.scalar_a.eq(a), self.scalar_b.eq(b), self.scalar_start.eq(1)]
            m.next = following

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.active):
                    m.d.comb += [slots.start.eq(1), writes.clear.eq(1)]
                    m.d.sync += [count.eq(0), position.eq(0), running.eq(field(word, ALIGN, "src") * BUFFER_UNIT)]
                    m.next = "BASES"
            with m.State("BASES"):
                m.d.sync += [
                    count.eq(count + 1),
                    base[count].eq(running),
                    running.eq(running + field(word, ALIGN, "stride") * BUFFER_UNIT),
                ]
                with m.If(count == machine.tokens - 1):
                    m.next = "LISTED"
            with m.State("LISTED"):
                with m.If(slots.ready):
                    m.next = "SLOT"
            with m.State("SLOT"):
                m.d.comb += self.slot_start.eq(1)
                m.d.sync += [group_start.eq(0), target_start.eq(0), group_number.eq(0), total.eq(0)]
                m.next = "GROUP"
            with m.State("GROUP"):
                m.d.sync += [offset.eq(0), exponent.eq(1), square_sum.eq(0)]
                m.next = "FIRST"
            with m.State("FIRST"):
                m.d.comb += reading.eq(1)
                m.d.sync += offset.eq(offset + lanes)
                with m.If(offset + lanes >= group):
                    m.d.sync += [offset.eq(0), count.eq(0)]
                    m.next = "TURN"
            with m.State("TURN"):
                # The last word's exponents are in after three cycles.
                m.d.sync += count.eq(count + 1)
                with m.If(count == 2):
                    m.next = "SECOND"
            with m.State("SECOND"):
                m.d.comb += [reading.eq(1), second.eq(1)]
                m.d.sync += offset.eq(offset + lanes)
                with m.If(offset + lanes >= padded):
                    m.d.sync += count.eq(0)
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == 4):
                    m.d.comb += kind_one.eq(1)
                    m.d.comb += [
                        self.exponent_slot.eq(slot),
                        self.exponent_group.eq(group_number),
                        self.exponent_data.eq(exponent),
                        self.exponent_enable.eq(1),
                    ]
                    m.d.sync += count.eq(0)
                    m.next = "CONVERT"
            with m.State("CONVERT"):
                m.d.sync += count.eq(count + 1)
                with m.If(~norm):
                    m.next = "NEXT GROUP"
                with m.Elif(count == FromInteger.LATENCY):
                    m.d.comb += saturating.eq(1)
                    scalar(ScalarUnit.ADD, total, convert.z, "SUM")
            with m.State("SUM"):
                with m.If(~self.scalar_busy):
                    m.d.sync += total.eq(self.scalar_result)
                    m.next = "NEXT GROUP"
            with m.State("NEXT GROUP"):
                m.d.sync += [
                    group_start.eq(group_start + group),
                    target_start.eq(target_start + padded),
                    group_number.eq(group_number + 1),
                ]
                with m.If(group_start + group < elements):
                    m.next = "GROUP"
                with m.Elif(norm):
                    m.next = "MEAN"
                with m.Else():
                    m.next = "NEXT SLOT"
            with m.State("MEAN"):
                scalar(ScalarUnit.MULTIPLY, total, self.inverse_size, "EPSILON")
            with m.State("EPSILON"):
                with m.If(~self.scalar_busy):
                    scalar(ScalarUnit.ADD, self.scalar_result, self.epsilon, "ROOT")
            with m.State("ROOT"):
                with m.If(~self.scalar_busy):
                    scalar(ScalarUnit.RSQRT, self.scalar_result, 0, "KEEP")
            with m.State("KEEP"):
                with m.If(~self.scalar_busy):
                    m.d.comb += kind_two.eq(1)
                    with m.Switch(slot):
                        for s, register in enumerate(rms):
                            with m.Case(s):
                                m.d.sync += register.eq(self.scalar_result)
                    m.next = "NEXT SLOT"
            with m.State("NEXT SLOT"):
                m.d.sync += [position.eq(position + 1), count.eq(0)]
                with m.If(position == slots.count - 1):
                    m.next = "SETTLE"
                with m.Else():
                    m.next = "SLOT"
            with m.State("SETTLE"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == Signature.LATENCY):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m
