"""Aligns results on their way: mantissas with one exponent per group, and 1/rms from the same mantissas."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hw.arithmetic.fp32 import AddPositive, lowest
from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, registered
from hw.arithmetic.signature import Signature, index, lane
from hw.component import Component, given, gives
from hw.memory.buffer import BufferRead
from hw.vector.groups import Completed, Group
from hw.vector.rms import InverseRms
from hw.widths import ELEMENT_BITS, OFFSET_BITS
from skipopu.isa.spec import AlignTarget
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics import mask
from skipopu.numerics.align import ALIGNED_BITS
from skipopu.numerics.signature import ALIGNED


def align_lane(m: Module, x: Value, exponent: Value, name: str) -> Value:
    """Mantissa of FP32 ``x`` under the group's exponent, nearest even, clipped: signed 18 bits, two cycles later."""
    own = x[23:31]
    # 24-bit mantissa over 2^(7 + distance)
    distance = Signal(8, name=f"{name}_distance")
    m.d.comb += distance.eq(exponent - own)
    reach = registered(m, Mux(distance > 18, 18, distance)[:5], f"{name}_reach")
    mantissa = registered(m, Mux(own == 0, 0, Cat(x[:23], Const(1, 1))), f"{name}_mantissa")
    negative = registered(m, x[31], f"{name}_negative")
    kept = Signal(17, name=f"{name}_kept")
    m.d.comb += kept.eq(mantissa[7:] >> reach)
    guard = Cat(Const(0, 1), mantissa).bit_select(reach + 7, 1)
    sticky = (mantissa & Cat(Const(-1, 6), lowest(reach, 18))).any()
    # The largest one is not rounded up. -(kept + up) = ~kept + (1 - up): one carry chain rounds and negates.
    up = guard & (sticky | kept[0]) & ~kept.all()
    aligned = (Cat(kept, Const(0, 1)) ^ negative.replicate(ALIGNED_BITS)) + (up ^ negative)
    return registered(m, aligned[:ALIGNED_BITS].as_signed(), f"{name}_aligned")


class Aligner(Component):
    """Reads each complete group back from the buffer, ``vector_lanes`` elements per cycle, and aligns it.

    Works beside the unit that writes the vectors: the array, attention, embedding or the scan. The squares of the mantissas
    are summed on the way; for the residual 1/rms follows once all groups are in, a slot per cycle.

    Where groups may be shorter than a beat, one of the residual takes as long as a square sum is added, and a cycle more.

    Latency: WRITE + 1 cycles from a group's arrival to the write of its first word; pipeline.aligned + Signature.LATENCY + 2 from the end of the
    flush, once no group is left, to ``done``, with 1/rms InverseRms.LATENCY and a cycle per slot more. Throughput: a word per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        slot = bits_for_index(machine.tokens)
        self.target = given(2, "AlignTarget of the running instruction")
        self.mask = given(machine.tokens, "its slots")
        self.completed = given(Completed(machine), "groups to align", "{}")
        self.padded = given(OFFSET_BITS, "elements that a group takes in the target")
        self.finish = given(1, "level: everything was written")
        self.done = gives(1, "for one cycle: everything is aligned")
        self.clear = gives(1, "with done: the tracker may start again")
        self.digest = gives(32, "with done: signature of what was aligned")
        self.read = gives(BufferRead(machine), "a port of the buffer", "read_{}")
        self.inner = given(ELEMENT_BITS, "first element of the inner region")
        self.inverse_size = given(32, "1 / elements of the residual, FP32")
        self.epsilon = given(32, "what is added to the mean square, FP32")
        self.head_slot = gives(slot, "slot of the word that is read: WRITE cycles ahead of its write")
        self.head_end = gives(1, "that word is its group's last")
        self.write_slot = gives(slot, "token slot of the mantissas")
        self.write_element = gives(ELEMENT_BITS, "element index of the first of ``vector_lanes`` mantissas")
        self.write_offset = gives(OFFSET_BITS, "the same within its group")
        self.write_data = gives(ALIGNED_BITS * machine.vector_lanes, "mantissas to write")
        if machine.masks:
            self.write_keys = gives(mask.KEY_BITS * machine.vector_lanes, "keys of the elements")
        self.write_exponent = gives(8, "their group's exponent")
        self.write_enable = gives(1, "write now")
        self.inverse_rms = gives(32 * machine.tokens, "1/rms of each slot, FP32")
        self.busy = gives(1, "a word is aligned")
        self.saturated = gives(1, "a step of 1/rms was too large for FP32")
        super().__init__()

    WRITE = pipeline.ALIGN_WRITE  # cycles from a word's read to its write

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        layout = Group(machine)
        present, reading, offset = Signal(layout), Signal(), Signal(OFFSET_BITS)
        last = ended = offset + lanes >= self.padded
        busy: Value = reading
        if machine.short_groups:  # a slot's square sums follow one another no sooner than they are added
            hurried = (self.target == AlignTarget.RESIDUAL) & (offset < AddPositive.LATENCY * lanes)
            last, busy = ended & ~hurried, reading & (offset < self.padded)
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
            self.head_end.eq(busy & ended),
        ]

        # 1: data, masked and registered; 2, 3: aligned, registered; 4: written and squared
        values = []
        for k in range(lanes):
            inside = delay(m, offset + k < present.size, 1, f"inside_{k}")
            values.append(registered(m, Mux(inside, self.read.data[32 * k : 32 * k + 32], 0), f"value_{k}"))
        exponent = delay(m, present.exponent, 2, "exponent")
        aligned = [align_lane(m, value, exponent, f"lane_{k}") for k, value in enumerate(values)]
        valid = delay_valid(m, busy, self.WRITE, "valid")
        slot, written_exponent = (
            delay(m, present.slot, self.WRITE, "slot"),
            delay(m, exponent, self.WRITE - 2, "written_exponent"),
        )
        within, first = delay(m, offset, self.WRITE, "within"), delay(m, offset == 0, self.WRITE, "first")
        element_before, number = (
            delay(m, present.place + offset, self.WRITE - 1, "element"),
            delay(m, present.number, self.WRITE, "number"),
        )
        inner = registered(m, Mux(self.target == AlignTarget.INNER, self.inner, 0), "inner_start")
        element = registered(m, element_before, "element")
        m.d.comb += [
            self.write_slot.eq(slot),
            self.write_element.eq(registered(m, (element_before + inner)[:ELEMENT_BITS], "element_written")),
            self.write_offset.eq(within),
            self.write_data.eq(Cat(aligned)),
            self.write_exponent.eq(written_exponent),
            self.write_enable.eq(valid),
        ]
        if machine.masks:
            keys = [value[32 - 1 - mask.KEY_BITS : 32 - 1] for value in values]
            m.d.comb += self.write_keys.eq(Cat(delay(m, key, self.WRITE - 2, f"key_{k}") for k, key in enumerate(keys)))
        m.submodules.rms = rms = InverseRms(machine)
        m.d.comb += [
            rms.clear.eq(self.clear),
            rms.enable.eq(self.target == AlignTarget.RESIDUAL),
            rms.valid.eq(valid),
            *(port.eq(mantissa) for port, mantissa in zip(rms.mantissas, aligned, strict=True)),
            rms.exponent.eq(written_exponent),
            rms.slot.eq(slot),
            rms.first.eq(first),
            rms.last.eq(delay_valid(m, busy & ended, self.WRITE, "last")),
            rms.inverse_size.eq(self.inverse_size),
            rms.epsilon.eq(self.epsilon),
            self.inverse_rms.eq(rms.inverse_rms),
            self.saturated.eq(rms.saturated),
        ]

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
        with m.If(rms.kept):
            m.d.comb += [
                writes.valid[lanes].eq(1),
                writes.where[lanes].eq(index(ALIGNED + 2, rms.kept_slot, Const(0, 1))),
                writes.value[lanes].eq(rms.kept_value),
            ]
        self._finish(m, reading, rms)
        return m

    def _finish(self, m: Module, reading: Signal, rms: InverseRms) -> None:
        """After the last write: the rest of the groups, 1/rms of a slot per cycle, the signature's total."""
        slot = Signal(range(self.machine.tokens + 1))
        m.d.comb += rms.request_slot.eq(slot)
        settled = InverseRms.LATENCY + Signature.LATENCY
        residual = self.target == AlignTarget.RESIDUAL
        drained, summed = (pipeline.aligned(self.machine, of_residual) for of_residual in (False, True))
        count = Signal(range(max(summed, drained, settled) + 2))
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
                with m.If(count == Mux(residual, summed, drained)):
                    m.d.sync += count.eq(InverseRms.LATENCY)
                    m.next = "SETTLE"
                    with m.If(residual):
                        m.d.sync += count.eq(0)
                        m.next = "NORM"
            with m.State("NORM"):
                m.d.comb += rms.request.eq(self.mask.bit_select(slot, 1))
                m.d.sync += slot.eq(slot + 1)
                with m.If(slot == self.machine.tokens - 1):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == settled):
                    m.d.comb += [self.done.eq(1), self.clear.eq(1)]
                    m.next = "WATCH"
