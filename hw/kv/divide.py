"""The end of attention: one division per query, a word of results per cycle, queries behind one another."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.fp32 import FromInteger, Multiply
from hw.arithmetic.pipeline import bits_for_index, count_shape, delay, delay_valid
from hw.arithmetic.quadratic import Quadratic
from hw.arithmetic.signature import Signature
from hw.arithmetic.signature import lane as lane_index
from hw.kv.query import query_depth
from hw.kv.reduce import EXPONENT_BITS, SUM_BITS, TOTAL_BITS
from hw.kv.shapes import HeadShapes
from hw.kv.walk import Block, lowest
from hw.memory.buffer import ELEMENT_ADDRESS_BITS, WordWrite
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.numerics.fp16 import ALIGNED_BIAS as KV_BIAS
from skipopu.numerics.tables import OUTPUT_BITS, RECIPROCAL


class Divide(Component):
    """Walks KV heads, blocks, their lanes and the words of a head; a word leaves ``LATENCY`` cycles after its step.

    The quotient is made beside the sums' way out of memory, anew with every word. Members: clear (in: a new instruction), start
    (in), serial (in: a query waits for the one before it), aligning (in:
    the results are aligned), pause (in: no more for now); configuration; block_count, block_k,
    addresses_k, kv_offset (in); read_number, read_lane, sum_address, sum_lane (out), total, exponent, sums (in, one cycle
    later); words (out stream, always accepted), finish (out, level: everything is written), aligned (in: the aligner is done),
    done, digest (the aligner's share not included), saturated (out).
    """

    QUOTIENT = 1 + FromInteger.LATENCY + Quadratic.LATENCY + FromInteger.LATENCY  # step to 1 / total
    LATENCY = QUOTIENT + Multiply.LATENCY
    SUMS = QUOTIENT - FromInteger.LATENCY - 2  # step to the sums' address

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        shapes = HeadShapes(machine)
        self.blocks = shapes.blocks
        number = bits_for_index(query_depth(machine))
        super().__init__(
            {
                "clear": In(1),
                "start": In(1),
                "serial": In(1),
                "pause": In(1),
                "aligning": In(1),
                "kv_heads": In(shapes.kv_heads),
                "head_dim": In(shapes.head_dim),
                "block_count": In(count_shape(self.blocks)),
                **{f"block_{k}": In(Block(machine)) for k in range(self.blocks)},
                **{f"addresses_{k}": In(data.ArrayLayout(ELEMENT_ADDRESS_BITS, QUERY_LANES)) for k in range(self.blocks)},
                "kv_offset": In(ELEMENT_ADDRESS_BITS),
                "read_number": Out(number),
                "read_lane": Out(2),
                "sum_address": Out(number),
                "sum_lane": Out(2),
                "total": In(TOTAL_BITS),
                "exponent": In(EXPONENT_BITS),
                "sums": In(SUM_BITS * machine.kv_lanes),
                "words": Out(stream.Signature(WordWrite(machine))),
                "finish": Out(1),
                "aligned": In(1),
                "done": Out(1),
                "digest": Out(32),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, lanes = self.machine, self.machine.vector_lanes
        m.submodules.writes = writes = Signature(lanes)
        m.d.comb += [writes.clear.eq(self.clear), self.digest.eq(writes.total)]

        # The present query and its word
        kv_head, block, left = Signal.like(self.kv_heads), Signal(bits_for_index(self.blocks)), Signal(QUERY_LANES)
        number = Signal.like(self.read_number)
        block_sums, sum_number = Signal.like(self.sum_address), Signal.like(self.sum_address)
        offset, element = Signal(ELEMENT_ADDRESS_BITS), Signal.like(self.head_dim)
        stepping = Signal()
        layout = Block(machine)
        table = Array(getattr(self, f"block_{k}").as_value() for k in range(self.blocks))
        addresses = Array(getattr(self, f"addresses_{k}").as_value() for k in range(self.blocks))
        present = layout(table[block])
        lane = Signal(2)
        slot, address = Signal(bits_for_index(machine.tokens)), Signal(ELEMENT_ADDRESS_BITS)
        m.d.comb += [
            lane.eq(lowest(left)),
            self.read_number.eq(number),
            self.read_lane.eq(lane),
            slot.eq(present.slots[lane]),
            address.eq(addresses[block].word_select(lane, ELEMENT_ADDRESS_BITS) + offset + element),
            self.sum_address.eq(delay(m, sum_number, self.SUMS, "sum_number")),
            self.sum_lane.eq(delay(m, lane, self.SUMS, "sum_lane")),
        ]

        # 1 / total
        m.submodules.convert_total = convert_total = FromInteger(TOTAL_BITS + 1)
        m.submodules.reciprocal = reciprocal = Quadratic((RECIPROCAL,))
        m.submodules.convert_reciprocal = convert_reciprocal = FromInteger(OUTPUT_BITS + 2)
        denominator_exponent = delay(m, convert_total.z[23:31], Quadratic.LATENCY, "denominator")
        m.d.comb += [
            convert_total.mantissa.eq(self.total),
            reciprocal.u.eq(convert_total.z[:23]),
            convert_reciprocal.mantissa.eq(reciprocal.y),
            convert_reciprocal.exponent.eq(127 - OUTPUT_BITS - denominator_exponent),
        ]
        quotient = convert_reciprocal.z

        # Sums to FP32, times the quotient
        per_word = machine.kv_lanes // lanes
        low, high = lanes.bit_length() - 1, machine.kv_lanes.bit_length() - 1
        part = delay(m, element[low:high], self.SUMS + 1, "part") if per_word > 1 else Const(0, 1)
        exponent = delay(m, self.exponent, self.SUMS + 1, "exponent")
        converting = delay_valid(m, stepping, self.SUMS + 2, "converting")
        multiplying = delay_valid(m, converting, FromInteger.LATENCY, "multiplying")
        valid, address_end = (
            delay_valid(m, multiplying, Multiply.LATENCY, "valid"),
            delay(m, address, self.LATENCY, "address"),
        )
        flags, results = [], []
        for k in range(lanes):
            m.submodules[f"convert_{k}"] = convert = FromInteger(SUM_BITS)
            m.submodules[f"multiply_{k}"] = multiply = Multiply()
            numerator = Signal(signed(SUM_BITS), name=f"numerator_{k}")
            of_parts = Cat(self.sums.word_select(k + lanes * i, SUM_BITS) for i in range(per_word))
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

        wait = Signal(range(self.LATENCY + Signature.LATENCY + 2))
        following = left & (left - 1)
        last_word = element + lanes >= self.head_dim
        last_lane = ~following[:QUERY_LANES].any()
        last_block, last_head = block == self.block_count - 1, kv_head == self.kv_heads - 1
        next_block = Signal.like(block)
        m.d.comb += next_block.eq(Mux(last_block, 0, block + 1))
        end_of_beat = element[low:high] == per_word - 1 if per_word > 1 else Const(1, 1)
        # Sums of a head: beats, within them blocks
        beyond = Signal.like(sum_number)
        m.d.comb += beyond.eq(sum_number + 1)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [s.eq(0) for s in (kv_head, block, number, block_sums, sum_number, offset, element, wait)]
                    m.d.sync += left.eq(layout(table[0]).lanes)
                    m.next = "STEP"
            with m.State("STEP"):
                m.d.comb += stepping.eq(~self.pause)
                with m.If(stepping):
                    m.d.sync += element.eq(element + lanes)
                    with m.If(end_of_beat):
                        m.d.sync += sum_number.eq(sum_number + self.block_count)
                    with m.If(last_word):
                        m.d.sync += [element.eq(0), left.eq(following), sum_number.eq(block_sums)]
                        with m.If(last_lane):
                            m.d.sync += [
                                left.eq(layout(table[next_block]).lanes),
                                block.eq(next_block),
                                number.eq(number + 1),
                                block_sums.eq(block_sums + 1),
                                sum_number.eq(block_sums + 1),
                            ]
                            with m.If(last_block):
                                # The last block's last beat is the last of the head's sums.
                                m.d.sync += [
                                    kv_head.eq(kv_head + 1),
                                    offset.eq(offset + self.kv_offset),
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
