"""Aligns results on their way: mantissas with one exponent per group, and 1/rms from the same mantissas."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed

from hw.arithmetic.fp32 import Add, FromInteger, Multiply
from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, negate_if, registered, tree
from hw.arithmetic.quadratic import Quadratic
from hw.arithmetic.signature import Signature, index, lane
from hw.component import Component, given, gives
from hw.vector.groups import Completed, Group
from hw.vector.unit import BufferRead
from skipopu.isa.spec import AlignTarget
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS, ALIGNED_MAX
from skipopu.numerics.signature import ALIGNED
from skipopu.numerics.tables import OUTPUT_BITS, RSQRT


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


class Aligner(Component):
    """Reads each complete group back from the buffer, ``vector_lanes`` elements per cycle, and aligns it.

    Works beside the unit that writes the vectors: the array, attention, embedding or the scan. The squares of the mantissas
    are summed on the way; for the residual 1/rms follows once all groups are in, a slot per cycle.

    Latency: 4 cycles from a group's arrival to the write of its first word. From ``finish`` on: until every group is read, then
    SUMMED + Signature.LATENCY + 3 cycles to ``done``; with 1/rms, its pipeline and a cycle per slot more. Throughput: a word per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.norm_saturated = Signal()
        slot = bits_for_index(machine.tokens)
        self.target = given(2, "AlignTarget of the running instruction")
        self.mask = given(machine.tokens, "its slots")
        self.completed = given(Completed(machine), "groups to align", "{}")
        self.padded = given(11, "elements that a group takes in the target")
        self.finish = given(1, "level: everything was written")
        self.done = gives(1, "for one cycle: everything is aligned")
        self.clear = gives(1, "with done: the tracker may start again")
        self.digest = gives(32, "with done: signature of what was aligned")
        self.read = gives(BufferRead(machine), "a port of the buffer", "read_{}")
        self.inner = given(20, "first element of the inner region")
        self.inverse_size = given(32, "1 / elements of the residual, FP32")
        self.epsilon = given(32, "what is added to the mean square, FP32")
        self.head_slot = gives(slot, "slot of the word that is read: WRITE cycles ahead of its write")
        self.head_end = gives(1, "that word is its group's last")
        self.write_slot = gives(slot, "slot to write")
        self.write_element = gives(20, "element index of the first of ``vector_lanes`` mantissas")
        self.write_offset = gives(11, "the same within its group")
        self.write_data = gives(ALIGNED_BITS * machine.vector_lanes, "mantissas to write")
        self.write_exponent = gives(8, "their group's exponent")
        self.write_enable = gives(1, "write now")
        self.inverse_rms = gives(32 * machine.tokens, "1/rms of each slot, FP32")
        self.busy = gives(1, "a word is aligned")
        self.saturated = gives(1, "a step of 1/rms was too large for FP32")
        super().__init__()

    WRITE = 3  # cycles from a word's read to its write
    SUMMED = WRITE + 2 + FromInteger.LATENCY + Add.LATENCY  # to its group's square sum in the slot's total

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        assert machine.weight_lanes // lanes > Add.LATENCY, "a slot's totals follow one another"
        layout = Group(machine)
        present, reading, offset = Signal(layout), Signal(), Signal(11)
        last = offset + lanes >= self.padded
        m.d.comb += [self.completed.groups.ready.eq(~reading | last), self.busy.eq(reading)]
        with m.If(reading):
            m.d.sync += offset.eq(offset + lanes)
            with m.If(last):
                m.d.sync += reading.eq(0)
        with m.If(self.completed.groups.valid & self.completed.groups.ready):
            m.d.sync += [present.eq(self.completed.groups.payload), reading.eq(1), offset.eq(0)]
        m.d.comb += [
            self.read.address.eq(present.start + offset),
            self.read.enable.eq(reading & (offset < present.size)),
            self.head_slot.eq(present.slot),
            self.head_end.eq(reading & last),
        ]

        # 1: data, masked and registered; 2: aligned, registered; 3: written and squared
        values = []
        for k in range(lanes):
            inside = delay(m, offset + k < present.size, 1, f"inside_{k}")
            values.append(registered(m, Mux(inside, self.read.data[32 * k : 32 * k + 32], 0), f"value_{k}"))
        exponent = delay(m, present.exponent, 2, "exponent")
        aligned = [registered(m, align_lane(m, v, exponent, f"lane_{k}"), f"aligned_{k}") for k, v in enumerate(values)]
        valid = delay_valid(m, reading, self.WRITE, "valid")
        slot, written_exponent = delay(m, present.slot, self.WRITE, "slot"), delay(m, exponent, 1, "written_exponent")
        within, first = delay(m, offset, self.WRITE, "within"), delay(m, offset == 0, self.WRITE, "first")
        element, number = (
            delay(m, present.place + offset, self.WRITE, "element"),
            delay(m, present.number, self.WRITE, "number"),
        )
        m.d.comb += [
            self.write_slot.eq(slot),
            self.write_element.eq(element + Mux(self.target == AlignTarget.INNER, self.inner, 0)),
            self.write_offset.eq(within),
            self.write_data.eq(Cat(aligned)),
            self.write_exponent.eq(written_exponent),
            self.write_enable.eq(valid),
        ]
        totals = self._sum_squares(
            m, aligned, valid, first, delay_valid(m, reading & last, self.WRITE, "last"), written_exponent, slot
        )

        # Signature: mantissas, the group's exponent with its first word, 1/rms
        m.submodules.writes = writes = Signature(lanes + 1)
        for k in range(lanes):
            m.d.comb += [
                writes.valid[k].eq(valid),
                writes.where[k].eq(index(ALIGNED, slot, lane(element, k, lanes))),
                writes.value[k].eq(Cat(aligned[k], aligned[k][-1].replicate(32 - ALIGNED_BITS))),
            ]
        m.d.comb += [
            writes.valid[lanes].eq(valid & first),
            writes.where[lanes].eq(index(ALIGNED + 1, slot, number)),
            writes.value[lanes].eq(written_exponent),
            self.digest.eq(writes.total),
            writes.clear.eq(self.clear),
        ]
        self._finish(m, reading, totals, writes)
        return m

    def _sum_squares(
        self, m: Module, aligned: list[Signal], valid: Value, first: Value, last: Value, exponent: Value, slot: Value
    ) -> list[Signal]:
        """Exact in a group, rounded once, added to the slot's total."""
        squares = registered(m, tree([a * a for a in aligned], lambda a, b: a + b), "squares").as_unsigned()
        running = Signal(46)
        squared, first_square = delay_valid(m, valid, 1, "squared"), delay(m, first, 1, "first_square")
        with m.If(squared):
            m.d.sync += running.eq(squares + Mux(first_square, 0, running))
        m.submodules.convert = convert = FromInteger(47)
        m.submodules.add = add = Add()
        norm = self.target == AlignTarget.RESIDUAL
        converting = delay_valid(m, last, 2, "converting")
        adding = delay_valid(m, converting, FromInteger.LATENCY, "adding")
        at_add = 2 + FromInteger.LATENCY
        totals = [Signal(32, name=f"total_{s}") for s in range(self.machine.tokens)]
        m.d.comb += [
            convert.mantissa.eq(Cat(running, Const(0, 1)).as_signed()),
            convert.exponent.eq((delay(m, exponent, 2, "square_exponent") << 1) - 2 * ALIGNED_BIAS),
            convert.valid.eq(converting & norm),
            add.a.eq(Array(totals)[delay(m, slot, at_add, "add_slot")]),
            add.b.eq(convert.z),
            add.valid.eq(adding & norm),
            self.saturated.eq(convert.saturated | add.saturated | self.norm_saturated),
        ]
        added, added_slot = delay_valid(m, adding, Add.LATENCY, "added"), delay(m, slot, at_add + Add.LATENCY, "added_slot")
        for s, total in enumerate(totals):
            with m.If(self.clear):
                m.d.sync += total.eq(0)
            with m.Elif(added & (added_slot == s)):
                m.d.sync += total.eq(add.z)
        return totals

    def _finish(self, m: Module, reading: Signal, totals: list[Signal], writes: Signature) -> None:
        """After the last write: the rest of the groups, 1/rms of a slot per cycle, the signature's total."""
        machine, last_lane = self.machine, self.machine.vector_lanes
        slot, issuing = Signal(range(machine.tokens + 1)), Signal()
        m.submodules.mean = mean = Multiply()
        m.submodules.shifted = shifted = Add()
        m.submodules.root = root = Quadratic((RSQRT,))
        m.submodules.rounded = rounded = FromInteger(OUTPUT_BITS + 2)
        given = issuing & self.mask.bit_select(slot, 1)
        averaging = delay_valid(m, given, Multiply.LATENCY, "averaging")
        odd = ~shifted.z[23]  # biased exponent minus 127 is odd
        half = Signal(9)
        m.d.comb += [
            mean.a.eq(Array(totals)[slot]),
            mean.b.eq(self.inverse_size),
            mean.valid.eq(given),
            shifted.a.eq(mean.z),
            shifted.b.eq(self.epsilon),
            shifted.valid.eq(averaging),
            root.u.eq(Cat(shifted.z[:23], odd)),
            # floor((e - 127) / 2) = (e - 127 - odd) / 2
            half.eq((shifted.z[23:31] + (1 - odd)) >> 1),
            rounded.mantissa.eq(Cat(root.y, Const(0, 1)).as_signed()),
            rounded.exponent.eq(64 - delay(m, half, Quadratic.LATENCY, "half") - OUTPUT_BITS),
        ]
        at_end = Multiply.LATENCY + Add.LATENCY + Quadratic.LATENCY + FromInteger.LATENCY
        kept, kept_slot = delay_valid(m, given, at_end, "kept"), delay(m, slot, at_end, "kept_slot")
        rms = [Signal(32, name=f"inverse_rms_{s}") for s in range(machine.tokens)]
        for s, register in enumerate(rms):
            with m.If(kept & (kept_slot == s)):
                m.d.sync += register.eq(rounded.z)
        with m.If(kept):
            m.d.comb += [
                writes.valid[last_lane].eq(1),
                writes.where[last_lane].eq(index(ALIGNED + 2, kept_slot, Const(0, 1))),
                writes.value[last_lane].eq(rounded.z),
            ]
        m.d.comb += [self.inverse_rms.eq(Cat(rms)), self.norm_saturated.eq(mean.saturated | shifted.saturated)]

        count = Signal(range(max(self.SUMMED, at_end + Signature.LATENCY) + 2))
        with m.FSM():
            with m.State("WATCH"):
                m.d.sync += [slot.eq(0), count.eq(0)]
                with m.If(self.finish):
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.comb += self.completed.flush.eq(1)
                with m.If(self.completed.flushed & self.completed.empty & ~reading):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == self.SUMMED):
                    m.d.sync += count.eq(at_end)
                    m.next = "SETTLE"
                    with m.If(self.target == AlignTarget.RESIDUAL):
                        m.d.sync += count.eq(0)
                        m.next = "NORM"
            with m.State("NORM"):
                m.d.comb += issuing.eq(1)
                m.d.sync += slot.eq(slot + 1)
                with m.If(slot == machine.tokens - 1):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == at_end + Signature.LATENCY):
                    m.d.comb += [self.done.eq(1), self.clear.eq(1)]
                    m.next = "WATCH"
