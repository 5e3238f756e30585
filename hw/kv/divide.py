"""The end of attention: one division per query, a word of results per cycle, queries behind one another."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream

from hw.arithmetic.fp32 import FromInteger, Multiply
from hw.arithmetic.pipeline import bits_for_index, delay, delay_valid, registered
from hw.arithmetic.quadratic import Quadratic
from hw.arithmetic.signature import Signature
from hw.arithmetic.signature import lane as lane_index
from hw.component import Component, given, gives
from hw.kv.blocks import Listed, Results, block_of, lowest, several
from hw.kv.reduce import SUM_BITS, TOTAL_BITS, ReducedRead
from hw.kv.shapes import Heads
from hw.memory.buffer import WordWrite
from hw.widths import ELEMENT_BITS
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.numerics.fp16 import ALIGNED_BIAS as KV_BIAS
from skipopu.numerics.tables import OUTPUT_BITS, RECIPROCAL


class Divide(Component):
    """Walks KV heads, blocks, their lanes and the words of a head; the quotient is made anew with every word, beside the sums' way.

    Latency: 1 cycle from ``start`` to the first step, ``LATENCY`` from a step to its word. Throughput: a word per cycle; with
    ``serial`` ``LATENCY`` + 1 more cycles after each query.
    """

    QUOTIENT = pipeline.QUOTIENT  # step to 1 / total
    LATENCY = pipeline.DIVIDE
    SUMS = QUOTIENT - FromInteger.LATENCY - 2  # step to the sums' address

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.clear = given(1, "a new instruction")
        self.start = given(1, "divide, one cycle")
        self.serial = given(1, "a query waits for the one before it")
        self.pause = given(1, "no more words for now; what is under way comes")
        self.aligning = given(1, "the results are aligned")
        self.heads = given(Heads(machine), "the model's heads")
        self.listed = given(Listed(machine), "blocks of queries")
        self.results = given(Results(machine), "where their results go")
        self.reduced = gives(ReducedRead(machine), "reads of what was summed", "{}")
        self.words = gives(stream.Signature(WordWrite(machine)), "results; always accepted")
        self.finish = gives(1, "everything is written and to be aligned, level")
        self.aligned = given(1, "the aligner is done")
        self.done = gives(1, "everything is written, and aligned where it is to be; one cycle")
        self.digest = gives(32, "signature of the words")
        self.saturated = gives(1, "a number was clipped")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes, heads, listed = self.machine, self.machine.vector_lanes, self.heads, self.listed

        # The present query and its word
        kv_head, block, left = (
            Signal.like(heads.kv_heads),
            Signal(bits_for_index(listed.blocks.shape().length)),
            Signal(QUERY_LANES),
        )
        number = Signal.like(self.reduced.read_number)
        block_sums, sum_number = Signal.like(self.reduced.sum_address), Signal.like(self.reduced.sum_address)
        offset, element = Signal(ELEMENT_BITS), Signal.like(heads.head_dim)
        stepping, lane = Signal(), Signal(2)
        present = block_of(listed, block)
        slot, address = Signal(bits_for_index(machine.tokens)), Signal(ELEMENT_BITS)
        addresses = Array(self.results.addresses[k].as_value() for k in range(listed.blocks.shape().length))
        m.d.comb += [
            lane.eq(lowest(left)),
            self.reduced.read_number.eq(number),
            self.reduced.read_lane.eq(lane),
            slot.eq(present.slots[lane]),
            address.eq(addresses[block].word_select(lane, ELEMENT_BITS) + offset + element),
            self.reduced.sum_address.eq(delay(m, sum_number, self.SUMS, "sum_number")),
            self.reduced.sum_lane.eq(delay(m, lane, self.SUMS, "sum_lane")),
        ]
        self._write(m, stepping, slot, address, element)

        wait = Signal(range(self.LATENCY + Signature.LATENCY + 2))
        following = left & (left - 1)
        last_word = element + lanes >= heads.head_dim
        last_lane = ~several(left)
        last_number: Value = listed.count - 1
        if machine.stationary:  # listed long before
            last_number = registered(m, last_number, "last_number")
        last_block, last_head = block == last_number, kv_head == heads.kv_heads - 1
        next_block = Signal.like(block)
        m.d.comb += next_block.eq(Mux(last_block, 0, block + 1))
        end_of_beat = (element & (machine.kv_lanes - 1)) == machine.kv_lanes - lanes
        # Sums of a head: beats, within them blocks
        beyond = Signal.like(sum_number)
        m.d.comb += beyond.eq(sum_number + 1)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [s.eq(0) for s in (kv_head, block, number, block_sums, sum_number, offset, element, wait)]
                    m.d.sync += left.eq(block_of(listed, 0).lanes)
                    m.next = "STEP"
            with m.State("STEP"):
                m.d.comb += stepping.eq(~self.pause)
                with m.If(stepping):
                    m.d.sync += element.eq(element + lanes)
                    with m.If(end_of_beat):
                        m.d.sync += sum_number.eq(sum_number + listed.count)
                    with m.If(last_word):
                        m.d.sync += [element.eq(0), left.eq(following), sum_number.eq(block_sums)]
                        with m.If(last_lane):
                            m.d.sync += [
                                left.eq(block_of(listed, next_block).lanes),
                                block.eq(next_block),
                                number.eq(number + 1),
                                block_sums.eq(block_sums + 1),
                                sum_number.eq(block_sums + 1),
                            ]
                            with m.If(last_block):
                                # The last block's last beat is the last of the head's sums.
                                m.d.sync += [
                                    kv_head.eq(kv_head + 1),
                                    offset.eq(offset + self.results.kv_offset),
                                    block_sums.eq(beyond),
                                    sum_number.eq(beyond),
                                ]
                        with m.If(self.serial):
                            m.next = "WAIT"
                        with m.If(last_lane & last_block & last_head):
                            m.next = "SETTLE"
            with m.State("WAIT"):
                m.d.sync += wait.eq(wait + 1)
                with m.If(wait == self.LATENCY):
                    m.d.sync += wait.eq(0)
                    m.next = "STEP"
            with m.State("SETTLE"):
                with m.If(wait != self.LATENCY + Signature.LATENCY):
                    m.d.sync += wait.eq(wait + 1)
                with m.Else():
                    m.d.comb += [self.finish.eq(self.aligning), self.done.eq(self.aligned | ~self.aligning)]
                    with m.If(self.done):
                        m.next = "IDLE"
        return m

    def _write(self, m: Module, stepping: Value, slot: Value, address: Value, element: Value) -> None:
        """The words of the steps, ``LATENCY`` cycles later: sums to FP32, times the quotient."""
        machine, lanes = self.machine, self.machine.vector_lanes
        m.submodules.writes = writes = Signature(lanes)
        m.d.comb += [writes.clear.eq(self.clear), self.digest.eq(writes.total)]
        quotient = self._quotient(m)
        per_word = machine.kv_lanes // lanes
        low, high = lanes.bit_length() - 1, machine.kv_lanes.bit_length() - 1
        part = delay(m, element[low:high], self.SUMS + 1, "part") if per_word > 1 else Const(0, 1)
        exponent = delay(m, self.reduced.exponent, self.SUMS + 1, "exponent")
        converting = delay_valid(m, stepping, self.SUMS + 2, "converting")
        multiplying = delay_valid(m, converting, FromInteger.LATENCY, "multiplying")
        valid = delay_valid(m, multiplying, Multiply.LATENCY, "valid")
        address_end = delay(m, address, self.LATENCY, "address")
        flags, results = [], []
        for k in range(lanes):
            m.submodules[f"convert_{k}"] = convert = FromInteger(SUM_BITS)
            m.submodules[f"multiply_{k}"] = multiply = Multiply()
            numerator = Signal(signed(SUM_BITS), name=f"numerator_{k}")
            of_parts = Cat(self.reduced.sums.word_select(k + lanes * i, SUM_BITS) for i in range(per_word))
            m.d.sync += numerator.eq(of_parts.word_select(part, SUM_BITS))
            m.d.comb += [
                convert.mantissa.eq(numerator),
                convert.exponent.eq(exponent - KV_BIAS),
                convert.valid.eq(converting),
                multiply.a.eq(convert.z),
                multiply.b.eq(quotient),
                multiply.valid.eq(multiplying),
                writes.valid[k].eq(valid),
                writes.where[k].eq(lane_index(address_end, k, lanes)),
                writes.value[k].eq(multiply.z),
            ]
            results.append(multiply.z)
            flags += [convert.saturated, multiply.saturated]
        m.d.comb += [
            self.saturated.eq(Cat(flags).any()),
            self.words.valid.eq(valid),
            self.words.payload.address.eq(address_end),
            self.words.payload.slot.eq(delay(m, slot, self.LATENCY, "slot")),
            self.words.payload.data.eq(Cat(results)),
            self.words.payload.enable.eq(-1),
        ]

    def _quotient(self, m: Module) -> Value:
        """1 / total of a step's query, FP32, ``QUOTIENT`` cycles later."""
        m.submodules.convert_total = convert_total = FromInteger(TOTAL_BITS + 1)
        m.submodules.reciprocal = reciprocal = Quadratic((RECIPROCAL,))
        m.submodules.convert_reciprocal = convert_reciprocal = FromInteger(OUTPUT_BITS + 2)
        denominator_exponent = delay(m, convert_total.z[23:31], Quadratic.LATENCY, "denominator")
        m.d.comb += [
            convert_total.mantissa.eq(self.reduced.total),
            reciprocal.u.eq(convert_total.z[:23]),
            convert_reciprocal.mantissa.eq(reciprocal.y),
            convert_reciprocal.exponent.eq(127 - OUTPUT_BITS - denominator_exponent),
        ]
        return convert_reciprocal.z
