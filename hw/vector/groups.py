"""Watches the buffer's writes and tells the aligner when a group of a slot's vector is complete."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered

from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, eights, largest_of, ones, registered
from hw.component import Bundle, Component, given, gives, level
from hw.memory.buffer import WordWrite
from hw.widths import ELEMENT_BITS, GROUP_BITS, OFFSET_BITS
from skipopu.isa.spec import MATMUL
from skipopu.machine import pipeline
from skipopu.machine.config import Machine


class Group(data.StructLayout):
    """A group to align. start: buffer address of its first element. place: first element in the target. size: elements that
    exist. exponent: the largest one.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "slot": bits_for_index(machine.tokens),
                "start": ELEMENT_BITS,
                "place": ELEMENT_BITS,
                "number": MATMUL.by_name["groups"].width,
                "size": OFFSET_BITS,
                "exponent": 8,
            }
        )


class Completed(Bundle):
    """Groups on their way to the aligner, seen from the tracker."""

    def __init__(self, machine: Machine) -> None:
        self.groups = gives(stream.Signature(Group(machine)), "complete groups")
        self.flush = given(1, "level: close the slots' last groups")
        self.flushed = gives(1, "they are closed, until flush falls")
        self.empty = gives(1, "no group waits")
        super().__init__()


class GroupTracker(Component):
    """Counts the elements of every slot's present group and keeps their largest exponent.

    Writes of a slot come in the order of its vector, whole words within one group; slots may take turns.

    Latency: pipeline.TRACKED cycles from the write that completes a group to ``groups``; as long and tokens - 2 more from flush to flushed.
    Throughput: a write per cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        under_way = pipeline.EPILOGUE + pipeline.TRACKED  # writes behind ``pause``, at most
        self.depth = 2 * machine.tokens + 32
        assert machine.tokens + under_way <= self.depth - machine.tokens, "a group of each, and one of each slot in a flush"
        self.clear = given(1, "a new vector begins in every slot")
        self.write_valid = given(1, "the buffer accepts a write that is to be aligned")
        self.write = given(WordWrite(machine), "that write")
        self.group = given(GROUP_BITS, "elements per group")
        self.padded = given(OFFSET_BITS, "elements that a group takes in the target")
        self.completed = gives(Completed(machine), "to the aligner", "{}")
        self.pause = gives(1, "writes should stop soon")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        layout = Group(machine)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=layout.size, depth=self.depth)
        # 1: what matters of the write; 2, 3: how many elements, their largest exponent; 4: the slot's group
        known = pipeline.TRACKED - 2
        valid, flush = (
            delay_valid(m, self.write_valid, known, "write_valid"),
            delay_valid(m, self.completed.flush, known - 1, "flush"),
        )
        slot, address = delay(m, self.write.slot, known - 1, "slot"), delay(m, self.write.address, known, "address")
        enabled = registered(m, self.write.enable, "enabled")
        exponents = [Mux(self.write.enable[k], self.write.data[32 * k + 23 : 32 * k + 31], 0) for k in range(lanes)]
        most = largest_of(m, [registered(m, exponent, f"exponent_{k}") for k, exponent in enumerate(exponents)], "most")
        amount = ones(m, eights(m, [*enabled], ones, "amount"), "amount")
        before = registered(m, (self.group - amount)[:OFFSET_BITS], "before")  # elements of a group that the write completes
        amount = registered(m, amount, "amount")
        states = Array(Signal(layout.size, name=f"group_{s}") for s in range(machine.tokens))
        begun = Const(1 << layout["exponent"].offset, layout.size)
        which, flushing, flushes = Signal(bits_for_index(machine.tokens)), Signal(), Signal()
        last_flushed = flushing & (which == machine.tokens - 1)
        low = lanes.bit_length() - 1
        now, changed, following = Signal(layout), Signal(layout), Signal(layout)
        m.d.comb += changed.eq(now)
        closing = Signal()
        with m.If(valid & ~flushing):
            m.d.comb += [
                changed.size.eq(now.size + amount),
                changed.exponent.eq(Mux(most > now.exponent, most, now.exponent)),
                closing.eq(now.size == before),
            ]
            with m.If(now.size == 0):
                m.d.comb += changed.start.eq(Cat(Const(0, low), address[low:]))
        with m.If(flushing):
            m.d.comb += closing.eq(now.size != 0)
        push = Signal(layout)
        m.d.comb += [push.eq(changed), push.slot.eq(which), fifo.w_data.eq(push), fifo.w_en.eq(closing)]
        m.d.comb += following.eq(changed)
        with m.If(closing):
            m.d.comb += [
                following.size.eq(0),
                following.exponent.eq(1),
                following.number.eq(now.number + 1),
                following.place.eq(now.place + self.padded),
            ]
        # A slot's group is looked up the cycle before, or is what is just written of it.
        coming = Signal.like(which)
        with m.If(valid | flushing):
            m.d.sync += states[which].eq(following.as_value())
        m.d.sync += [which.eq(coming), now.eq(Mux(coming == which, following, states[coming]))]
        with m.If(self.clear):
            m.d.sync += [state.eq(begun) for state in (*states, now.as_value())]
        # Flush: at most one group per slot, for which the FIFO always keeps room.
        m.d.comb += [
            flushes.eq(Mux(flushing, ~last_flushed, self.completed.flush & flush & ~self.completed.flushed)),
            coming.eq(Mux(flushes, Mux(flushing, which + 1, 0), slot)),
        ]
        m.d.sync += flushing.eq(flushes)
        with m.If(last_flushed):
            m.d.sync += self.completed.flushed.eq(1)
        with m.If(~self.completed.flush):
            m.d.sync += self.completed.flushed.eq(0)
        m.d.comb += [
            self.completed.groups.valid.eq(fifo.r_rdy),
            self.completed.groups.payload.eq(fifo.r_data),
            fifo.r_en.eq(self.completed.groups.ready),
            self.completed.empty.eq(level(fifo) == 0),
        ]
        m.d.sync += self.pause.eq(level(fifo) > machine.tokens)
        return m
