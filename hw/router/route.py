"""ROUTE: routing bits from the router product, a trace or constants."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.fp32 import Add
from hw.arithmetic.pipeline import bits_for_index
from hw.arithmetic.signature import Signature, index
from hw.control.issue import Issue, field
from hw.memory.buffer import ELEMENT_ADDRESS_BITS, lane_of
from hw.memory.reader import Run
from skipopu.isa.spec import BUFFER_UNIT, ROUTE
from skipopu.machine.config import Machine
from skipopu.policy import ALWAYS, ROUTER, TRACE

RECORD_BYTES = 16


class RouteUnit(Component):
    """Decides both bits of each slot: z = (high + low) + bias, execute when z >= dial; then the modes of the record.

    The record is read while the router product is on its way. Members: next (in: ``instruction`` is this unit's, and waits to
    become active), active, instruction (in), done, digest, working, waiting (out, for the counters); dial (in, FP32); buffer read port; runs (out stream) and beats (in
    stream) of port 0's loader; attention, ffn (out: bits per slot, valid from done on); saturated (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        super().__init__(
            {
                "next": In(1),
                "active": In(1),
                "instruction": In(Issue(machine)),
                "done": Out(1),
                "digest": Out(32),
                "working": Out(1),
                "waiting": Out(1),
                "dial": In(32),
                "read_address": Out(ELEMENT_ADDRESS_BITS),
                "read_enable": Out(1),
                "read_data": In(32 * machine.vector_lanes),
                "runs": Out(stream.Signature(Run(machine))),
                "beats": In(stream.Signature(machine.port_bits)),
                "saturated": Out(1),
                "attention": Out(machine.tokens),
                "ffn": Out(machine.tokens),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        word = self.instruction.word
        beat_shift = (machine.beat_bytes - 1).bit_length()
        record_beats = max(1, RECORD_BYTES // machine.beat_bytes)
        record = Signal(8 * RECORD_BYTES)
        modes = [record[64:66], record[66:68]]
        traced = Cat(mode == TRACE.code for mode in modes).any()
        m.submodules.writes = writes = Signature(1)
        m.d.comb += self.digest.eq(writes.total)
        slot = Signal(bits_for_index(machine.tokens))
        base = Signal(ELEMENT_ADDRESS_BITS)
        item, module = Signal(2), Signal()
        value = Signal(32)
        bit = [Signal(name="attention_bit"), Signal(name="ffn_bit")]
        trace_byte = Signal(8)
        count = Signal(4)
        beats_left = Signal(2)
        trace_address = Signal(40)
        m.d.comb += [
            trace_address.eq((self.instruction.trace_row << 6) + self.instruction.position + slot),
            self.read_address.eq(base + item),
        ]
        # One addition at a time
        m.submodules.add = add = Add()
        start, a, b, left, result = Signal(), Signal(32), Signal(32), Signal(range(Add.LATENCY + 2)), Signal(32)
        given_a, given_b = Signal(32), Signal(32)
        busy = left != 0
        with m.If(start):
            m.d.sync += [a.eq(given_a), b.eq(given_b), left.eq(1 + Add.LATENCY)]
        with m.Elif(busy):
            m.d.sync += left.eq(left - 1)
        with m.If(left == 1):
            m.d.sync += result.eq(add.z)
        m.d.comb += [add.a.eq(a), add.b.eq(b), add.valid.eq(1), self.saturated.eq((left == 1) & add.saturated)]

        def key(x: Signal) -> Signal:
            """Unsigned integer in the order of FP32 numbers, zeros equal."""
            return Mux(x[:31] == 0, 1 << 31, Mux(x[31], ~x, x | (1 << 31)))[:32]

        m.d.comb += [
            self.working.eq(self.read_enable),
            self.waiting.eq((self.runs.valid & ~self.runs.ready) | (self.beats.ready & ~self.beats.valid)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += beats_left.eq(record_beats)
                with m.If(self.next | self.active):
                    m.next = "RECORD"
            with m.State("RECORD"):
                m.d.comb += [
                    self.runs.valid.eq(1),
                    self.runs.payload.beat.eq(self.instruction.address << (6 - beat_shift)),
                    self.runs.payload.count.eq(record_beats),
                ]
                with m.If(self.runs.ready):
                    m.next = "RECORD DATA"
            with m.State("RECORD DATA"):
                m.d.comb += self.beats.ready.eq(1)
                with m.If(self.beats.valid):
                    joined = Cat(record, self.beats.payload)[-8 * RECORD_BYTES :] if record_beats > 1 else self.beats.payload
                    m.d.sync += [record.eq(joined), beats_left.eq(beats_left - 1)]
                    with m.If(beats_left == 1):
                        m.next = "READY"
            with m.State("READY"):
                m.d.sync += [slot.eq(0), base.eq(field(word, ROUTE, "src") * BUFFER_UNIT), self.attention.eq(0), self.ffn.eq(0)]
                with m.If(self.active):
                    m.d.comb += writes.clear.eq(1)
                    m.next = "SLOT"
            with m.State("SLOT"):
                m.d.sync += [item.eq(0), module.eq(0)]
                with m.If(~self.instruction.mask.bit_select(slot, 1)):
                    m.next = "NEXT"
                with m.Elif(traced):
                    m.next = "TRACE"
                with m.Else():
                    m.next = "READ"
            with m.State("TRACE"):
                m.d.comb += [
                    self.runs.valid.eq(1),
                    self.runs.payload.beat.eq(trace_address >> beat_shift),
                    self.runs.payload.count.eq(1),
                ]
                with m.If(self.runs.ready):
                    m.next = "TRACE DATA"
            with m.State("TRACE DATA"):
                m.d.comb += self.beats.ready.eq(1)
                with m.If(self.beats.valid):
                    m.d.sync += trace_byte.eq(self.beats.payload.word_select(trace_address[:beat_shift], 8))
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.read_enable.eq(1)
                m.next = "VALUE"
            with m.State("VALUE"):
                # High digit first, then add the low one.
                chosen = self.read_data.word_select(lane_of(machine, self.read_address), 32)
                m.d.sync += item.eq(item + 1)
                with m.If(item[0]):
                    m.d.comb += [given_a.eq(value), given_b.eq(chosen), start.eq(1)]
                    m.next = "BIAS"
                with m.Else():
                    m.d.sync += value.eq(chosen)
                    m.next = "READ"
            with m.State("BIAS"):
                with m.If(~busy):
                    m.d.comb += [
                        given_a.eq(result),
                        given_b.eq(Mux(module, record[32:64], record[:32])),
                        start.eq(1),
                    ]
                    m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(~busy):
                    m.d.comb += [
                        writes.valid[0].eq(1),
                        writes.where[0].eq(index(1, slot, module)),
                        writes.value[0].eq(result),
                    ]
                    execute = key(result) >= key(self.dial)
                    for k in range(2):
                        with m.If(module == k):
                            with m.Switch(modes[k]):
                                with m.Case(ROUTER.code):
                                    m.d.sync += bit[k].eq(execute)
                                with m.Case(TRACE.code):
                                    m.d.sync += bit[k].eq(trace_byte[k])
                                with m.Default():
                                    m.d.sync += bit[k].eq(modes[k] == ALWAYS.code)
                    m.d.sync += module.eq(1)
                    m.next = "KEEP"
                    with m.If(module == 0):
                        m.next = "READ"
            with m.State("KEEP"):
                m.d.comb += [
                    writes.valid[0].eq(1),
                    writes.where[0].eq(index(0, slot, Const(0, 1))),
                    writes.value[0].eq(Cat(bit)),
                ]
                m.d.sync += [self.attention.bit_select(slot, 1).eq(bit[0]), self.ffn.bit_select(slot, 1).eq(bit[1])]
                m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [slot.eq(slot + 1), base.eq(base + field(word, ROUTE, "stride") * BUFFER_UNIT), count.eq(0)]
                m.next = "SLOT"
                with m.If(slot == self.instruction.count - 1):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == Signature.LATENCY):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m
